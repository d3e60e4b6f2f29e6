"""For those who write a provider: the conformance suite it has to pass, a reference provider, a clock that jumps.

    from anydpo.testing.conformance import CapabilityTests, DispatchTests, FaultTests, ProviderFixture, VerbTests

Subclass `ProviderFixture` with one fixture and the rest in two lines each; `anydpo provider new NAME` writes both.
"""
