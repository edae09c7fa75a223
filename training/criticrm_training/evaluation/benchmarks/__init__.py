"""Published benchmarks: their files, and their authors' metrics."""
