//! One client for each cluster of texts, for data without labels: a cheap embedding and k-means.
//!
//! Embedding: words hashed to [`BUCKETS`] dimensions (Weinberger et al. 2009, arXiv:0902.2206, without signs), weighted
//! `(1 + ln tf) · (ln((1 + n) / (1 + df)) + 1)` and scaled to unit length. Clustering: spherical k-means (Dhillon and
//! Modha 2001) seeded as k-means++ (Arthur and Vassilvitskii 2007) with distance `1 - cos`. All sums run in example
//! order in f64, so the result does not depend on threads.

use std::collections::BTreeMap;

use antiphon_core::registry::{Entry, settings};
use antiphon_core::{Digest, Stream};
use serde::Deserialize;

use super::{Partition, PartitionError, Partitioner, Pool, check, draw};

/// Dimensions of the embedding.
pub const BUCKETS: usize = 4096;

/// Sweeps of k-means at most; it mostly settles in ten.
const SWEEPS: usize = 25;

/// Registry line of [`Clusters`].
pub const ENTRY: Entry<dyn Partitioner> = Entry {
    id: "clusters",
    paper: "doi:10.1023/A:1007612920971",
    about: "one client per cluster of texts (hashed tf-idf, spherical k-means)",
    build: |table| {
        let this: Clusters = settings("clusters", table)?;
        check("clusters", &[(this.clients > 0, "`clients` must be at least 1")])?;
        Ok(Box::new(this))
    },
};

/// Settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clusters {
    /// Number of clients, which is the number of clusters.
    pub clients: usize,
    /// Least examples of a cluster.
    pub min_examples: Option<usize>,
}

impl Partitioner for Clusters {
    fn assign(&self, pool: &Pool<'_>, stream: &Stream) -> Result<Partition, PartitionError> {
        let min = self.min_examples.unwrap_or(1);
        draw::enough(pool, self.clients, min)?;
        let mut shares = vec![Vec::new(); self.clients];
        for (i, c) in assign(pool, self.clients, stream)?.into_iter().enumerate() {
            shares[c].push(i);
        }
        let partition = Partition::numbered(shares);
        match partition.clients.iter().find(|c| c.examples.len() < min) {
            Some(c) => {
                Err(PartitionError::SmallClient { client: c.name.clone(), examples: c.examples.len(), min })
            }
            None => Ok(partition),
        }
    }
}

/// The cluster of each example, below `k`; every cluster has an example.
pub(super) fn assign(pool: &Pool<'_>, k: usize, stream: &Stream) -> Result<Vec<usize>, PartitionError> {
    check("clusters", &[(k > 0, "the number of clusters must be at least 1")])?;
    draw::enough(pool, k, 1)?;
    let points = embed(pool);
    let mut centres = seeds(&points, k, &mut stream.substream(u64::MAX - 1));
    let mut cluster = vec![0; points.len()];
    for sweep in 0..SWEEPS {
        let nearest: Vec<(usize, f64)> = points.iter().map(|p| nearest(p, &centres)).collect();
        let mut next: Vec<usize> = nearest.iter().map(|(c, _)| *c).collect();
        fill_empty(&mut next, &nearest, k);
        if sweep > 0 && next == cluster {
            break;
        }
        cluster = next;
        centres = means(&points, &cluster, k);
    }
    Ok(cluster)
}

/// A text as `(bucket, weight)`, buckets ascending, of unit length or empty.
type Point = Vec<(usize, f64)>;

/// Lower-case words of `text`.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase)
}

/// A word's dimension below `buckets`.
pub(crate) fn bucket(word: &str, buckets: usize) -> usize {
    let [a, b, c, d, ..] = Digest::of(word.as_bytes()).0;
    u32::from_le_bytes([a, b, c, d]) as usize % buckets
}

fn embed(pool: &Pool<'_>) -> Vec<Point> {
    let counts: Vec<BTreeMap<usize, f64>> = pool
        .examples
        .iter()
        .map(|e| {
            let mut tf = BTreeMap::new();
            for word in e.texts().flat_map(words) {
                *tf.entry(bucket(&word, BUCKETS)).or_insert(0.0) += 1.0;
            }
            tf
        })
        .collect();
    let mut df = vec![0.0; BUCKETS];
    counts.iter().flat_map(BTreeMap::keys).for_each(|&b| df[b] += 1.0);
    let n = counts.len() as f64;
    counts
        .into_iter()
        .map(|tf| {
            let mut point: Point = tf
                .into_iter()
                .map(|(b, tf)| (b, (1.0 + f64::ln(tf)) * (f64::ln((1.0 + n) / (1.0 + df[b])) + 1.0)))
                .collect();
            let norm = point.iter().map(|(_, w)| w * w).sum::<f64>().sqrt();
            point.iter_mut().for_each(|(_, w)| *w /= norm);
            point
        })
        .collect()
}

fn dot(point: &Point, centre: &[f64]) -> f64 {
    point.iter().map(|&(b, w)| w * centre[b]).sum()
}

fn dense(point: &Point) -> Vec<f64> {
    let mut centre = vec![0.0; BUCKETS];
    point.iter().for_each(|&(b, w)| centre[b] = w);
    centre
}

/// The nearest centre (the first among equals) and the cosine with it.
fn nearest(point: &Point, centres: &[Vec<f64>]) -> (usize, f64) {
    let mut best = (0, f64::NEG_INFINITY);
    for (c, centre) in centres.iter().enumerate() {
        let cos = dot(point, centre);
        if cos > best.1 {
            best = (c, cos);
        }
    }
    best
}

/// k-means++: each further seed in proportion to its squared distance `1 - cos` to the nearest so far.
fn seeds(points: &[Point], k: usize, stream: &mut Stream) -> Vec<Vec<f64>> {
    let mut centres = vec![dense(&points[stream.below(points.len() as u64) as usize])];
    let mut distance = vec![f64::INFINITY; points.len()];
    while centres.len() < k {
        let newest = &centres[centres.len() - 1];
        for (d, p) in distance.iter_mut().zip(points) {
            *d = d.min((1.0 - dot(p, newest)).max(0.0));
        }
        let mut target = stream.uniform() * distance.iter().map(|d| d * d).sum::<f64>();
        let mut chosen = points.len() - 1;
        for (i, d) in distance.iter().enumerate() {
            target -= d * d;
            if target < 0.0 {
                chosen = i;
                break;
            }
        }
        centres.push(dense(&points[chosen]));
    }
    centres
}

/// Gives each empty cluster the example that lies farthest from its centre, out of clusters that can spare one.
fn fill_empty(cluster: &mut [usize], nearest: &[(usize, f64)], k: usize) {
    let mut size = vec![0_usize; k];
    cluster.iter().for_each(|&c| size[c] += 1);
    let mut far: Vec<usize> = (0..cluster.len()).collect();
    far.sort_by(|&a, &b| nearest[a].1.total_cmp(&nearest[b].1).then(a.cmp(&b)));
    let mut far = far.into_iter();
    for empty in 0..k {
        while size[empty] == 0 {
            let Some(i) = far.next() else { return };
            if size[cluster[i]] > 1 {
                size[cluster[i]] -= 1;
                cluster[i] = empty;
                size[empty] = 1;
            }
        }
    }
}

/// Means of the points of each cluster, scaled to unit length.
fn means(points: &[Point], cluster: &[usize], k: usize) -> Vec<Vec<f64>> {
    let mut centres = vec![vec![0.0; BUCKETS]; k];
    for (point, &c) in points.iter().zip(cluster) {
        point.iter().for_each(|&(b, w)| centres[c][b] += w);
    }
    for centre in &mut centres {
        let norm = centre.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 {
            centre.iter_mut().for_each(|x| *x /= norm);
        }
    }
    centres
}
