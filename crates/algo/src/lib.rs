//! The federated algebra: layers, reducers, server steps, plan and its check
