"""What contributors run beside the product."""
