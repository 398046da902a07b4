"""What a machine needs: processes, memory, precision, compilation, validation, progress, files written whole."""
