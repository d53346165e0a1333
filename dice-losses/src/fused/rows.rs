//! The sums of one item, a row a kind and a number a class, as the operation's output holds them.

macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Sums of an item, one of each class.
        pub(super) struct Rows<'a> {
            $($(#[$doc])* pub(super) $name: &'a mut [f64],)*
        }

        /// Derivatives of the loss in an item's sums; some sums do not depend on the prediction.
        #[allow(dead_code)]
        pub(super) struct Gradients<'a> {
            $(pub(super) $name: &'a [f64],)*
        }

        /// Their number.
        pub(crate) const ROWS: usize = [$(stringify!($name)),*].len();

        impl<'a> Rows<'a> {
            /// `ROWS` rows of as many classes as there is room for.
            pub(super) fn new(all: &'a mut [f64]) -> Self {
                let classes = all.len() / ROWS;
                let mut rows = all.chunks_mut(classes);
                Self { $($name: rows.next().unwrap_or_default(),)* }
            }
        }

        impl<'a> Gradients<'a> {
            /// `ROWS` rows of as many classes as there is room for.
            pub(super) fn new(all: &'a [f64]) -> Self {
                let classes = all.len() / ROWS;
                let mut rows = all.chunks(classes);
                Self { $($name: rows.next().unwrap_or_default(),)* }
            }
        }
    };
}

rows! {
    tp,
    fp,
    fn_,
    volume,
    predicted,
    pixels,
    /// The pixel loss where the class is true.
    of_class,
    /// The pixel loss where it is not, of a sigmoid.
    of_others,
}
