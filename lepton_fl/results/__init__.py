"""What a run leaves behind and says: values, files, terminal lines, one picture."""
