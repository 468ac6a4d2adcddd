"""Pages for people, made on the server: what is wrong now, jobs, runs, one run, runbooks."""
