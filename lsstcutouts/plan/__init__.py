"""Plans what to read for each target: plain arrays, made once from a Butler repository and saved as Parquet."""
