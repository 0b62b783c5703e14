//! Every definition in plain float64 loops: the oracle of every test.
