"""What a machine can do, and how much of it sampling and learning use."""
