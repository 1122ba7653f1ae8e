"""Where the data of tasks come from: files, downloads, the cache, and the report on a data set."""
