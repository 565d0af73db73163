//! The store's numbers, for Prometheus.

use std::sync::Arc;

use prometheus_client::collector::Collector as Collects;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{Metrics, Store};

/// Tells the numbers of a store whenever they are asked for.
#[derive(Debug)]
pub struct Collector(Arc<Store>);

impl Collector {
    /// Those of this store.
    pub fn of(store: &Arc<Store>) -> Collector {
        Collector(Arc::clone(store))
    }
}

impl Collects for Collector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Metrics {
            files,
            bytes,
            written,
            expired_by_size,
            expired_by_age,
            expired_by_space,
            write_errors,
            foreign,
            unreadable,
        } = self.0.metrics();
        let gauges = [
            ("luaflame_store_files", "Profiles in the store", files),
            ("luaflame_store_bytes", "Bytes that they take", bytes),
            ("luaflame_store_foreign_files", "Files in its directory that are not its own", foreign),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let counters = [
            ("luaflame_store_written", "Profiles written", written),
            ("luaflame_store_write_errors", "Profiles that could not be written", write_errors),
            ("luaflame_store_unreadable", "Profiles that could not be read when they were asked for", unreadable),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let expired = [("size", expired_by_size), ("age", expired_by_age), ("space", expired_by_space)];
        let kind = ConstCounter::new(0_u64).metric_type();
        let mut family = encoder.encode_descriptor(
            "luaflame_store_expired",
            "Profiles deleted to keep the store small, by what there was too much of",
            None,
            kind,
        )?;
        for (reason, value) in expired {
            ConstCounter::new(value).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        Ok(())
    }
}
