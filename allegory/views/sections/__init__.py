"""The sections of a report, each in a room of its own: measured numbers in, a `layout.Section` out."""
