//! Errors as text: the whole chain on one line, and nothing said twice.

use std::error::Error;
use std::fmt;

/// An error with its sources. A text that ends with that of its own source, as many libraries have it, is
/// cut there; of an answer of the API server, only its message is told.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut error = self.0;
        loop {
            if let Some(kube::Error::Api(status)) = error.downcast_ref() {
                return f.write_str(&status.message);
            }
            let text = error.to_string();
            let Some(source) = error.source() else { return f.write_str(&text) };
            let told = source.to_string();
            let own = text.strip_suffix(&told).unwrap_or(&text).trim_end_matches([':', ' ']);
            // Its text is nothing but that of its source.
            if !own.is_empty() {
                write!(f, "{own}: ")?;
            }
            error = source;
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::Chain;

    #[derive(Debug, thiserror::Error)]
    enum Layer {
        #[error("cannot start: {0}")]
        Repeats(#[source] Box<Layer>),
        #[error("could not read the list")]
        Silent(#[source] Box<Layer>),
        #[error("failed to watch: {0}")]
        Watch(#[source] kube::Error),
        #[error("no such file")]
        Bottom,
    }

    #[test]
    fn nothing_is_said_twice() {
        let bottom = || Box::new(Layer::Bottom);
        let error = Layer::Repeats(Box::new(Layer::Silent(bottom())));
        assert_eq!(Chain(&error).to_string(), "cannot start: could not read the list: no such file");
        let error = Layer::Repeats(Box::new(Layer::Repeats(bottom())));
        assert_eq!(Chain(&error).to_string(), "cannot start: cannot start: no such file");
    }

    #[test]
    fn an_answer_of_the_api_server_is_its_message() {
        let status = Status::failure("storage is (re)initializing", "TooManyRequests").with_code(429);
        let error = Layer::Watch(kube::Error::Api(status.boxed()));
        assert_eq!(Chain(&error).to_string(), "failed to watch: storage is (re)initializing");
    }
}
