"""Energy: what computing took, in joules, each figure with how it is known; nothing here opens a socket."""
