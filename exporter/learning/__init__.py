"""What is expected of a job: as configured, as scheduled, or as its past tells."""
