"""What lies in a folder of data: its format and splits, and the kind of task that its rows are for."""
