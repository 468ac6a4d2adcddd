"""The tables of metrics, and what is shown of a job."""
