//! An API server in memory, with faults on request.
