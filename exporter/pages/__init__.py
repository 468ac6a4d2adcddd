"""Pages for people, rendered on the server: problems, jobs, runs, one run, runbooks."""
