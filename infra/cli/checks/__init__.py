"""What `relevo doctor` looks at, one module for each server; see `finding` for how they report."""
