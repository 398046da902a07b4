"""Runtime: processes, memory, precision, compilation, validation, progress, atomic file writes."""
