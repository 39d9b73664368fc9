"""Work on the partitions of a large catalog: export and prediction, in one process or on Dask."""
