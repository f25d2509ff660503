"""The page of `diffedit ui` and `diffedit run --review`: a shell around the commands, for a browser on this machine."""
