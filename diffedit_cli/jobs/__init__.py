"""From paths to results: what is planned, what is up to date, one picture or many, shards, workers."""
