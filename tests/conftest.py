from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.services", "tests.loopback", "tests.guest_wat", "tests.component_wat"]

# How long an example takes is the machine's business.
settings.register_profile("patient", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("patient")
