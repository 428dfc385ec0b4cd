//! microdit
fn main(){}
