//! Images in strips of rows, which threads write by themselves.

/// Some rows of an image, of every channel.
pub(super) struct Strip<'a, N> {
    pub(super) image: usize,
    pub(super) first_row: usize,
    /// The rows of each channel.
    pub(super) channels: Vec<&'a mut [N]>,
}

/// Strips of `rows` rows, or what is left of an image, of images `[channels, height, width]`.
pub(super) fn strips<N>(
    images: &mut [N],
    [channels, height, width]: [usize; 3],
    rows: usize,
) -> Vec<Strip<'_, N>> {
    let mut strips = Vec::new();
    let images = images.chunks_exact_mut(channels * height * width);
    for (image, pixels) in images.enumerate() {
        let before = strips.len();
        strips.extend((0..height).step_by(rows).map(|first_row| Strip {
            image,
            first_row,
            channels: Vec::with_capacity(channels),
        }));
        for channel in pixels.chunks_exact_mut(height * width) {
            let parts = channel.chunks_mut(rows * width);
            for (strip, part) in strips[before..].iter_mut().zip(parts) {
                strip.channels.push(part);
            }
        }
    }
    strips
}
