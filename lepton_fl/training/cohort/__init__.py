"""Many institutions' local training in one process: executors that give the same updates, and the choice of one."""
