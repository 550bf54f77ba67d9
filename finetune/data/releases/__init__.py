"""Published benchmarks, one file each: the official files to rows."""
