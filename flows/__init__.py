"""What runs: the flows, their configuration and profiles, and the command line."""
