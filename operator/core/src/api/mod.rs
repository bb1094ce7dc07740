//! The Kubernetes API of this operator, a module a version.

pub mod v1beta1;
