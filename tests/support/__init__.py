"""What the tests stand on, beside `harness`: apps, pools, the fake driver, scenarios."""
