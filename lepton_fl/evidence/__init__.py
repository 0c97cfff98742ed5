"""What anyone can check later: the log, its proofs, and what is written from them."""
