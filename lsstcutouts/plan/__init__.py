"""What to read for each target: plain arrays, made once from a Butler repository, saved as Parquet, carried by workers."""
