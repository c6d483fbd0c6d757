"""What runs inside the environments of other services, and what is installed there."""
