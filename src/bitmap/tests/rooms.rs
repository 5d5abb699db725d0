//! Room in a full table, with and without a resync.

use super::*;

const SLOTS: u32 = 64;

#[test]
fn a_full_table_makes_room_from_the_oldest() {
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    let oldest = Object::new(1);
    drop(bitmap.mark(&host, &[oldest.metadata()]).unwrap());
    bitmap.tick();
    for number in 2..300 {
        drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[Object::new(number).data(1..2)]));
        bitmap.tick();
    }
    assert!(host.syncs.load(Ordering::SeqCst) >= 20);
    assert!(bitmap.stats().dirty_slots <= 48);
    assert!(!says(&alone(&stores[LegId::A], SLOTS).dirty(), &oldest.metadata()));
}

#[test]
fn the_file_never_has_more_slots_in_use_than_the_table_may() {
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    for number in 0..400 {
        drop(bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap());
        let loaded = alone(&stores[LegId::A], SLOTS);
        assert!(loaded.dirty().len() <= 48 && !loaded.compare_all);
        if number % 37 == 0 {
            bitmap.clear(&bitmap.idle(0));
        }
    }
}

#[test]
fn a_failing_sync_fails_the_mark_and_clears_nothing() {
    let (bitmap, _stores) = mirrored(SLOTS);
    let host = Mirror::default();
    host.sync_fails.store(libc::EIO as u64, Ordering::SeqCst);
    for number in 0..48 {
        drop(bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap());
    }
    let error = bitmap.mark(&host, &[Object::new(99).metadata()]).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(bitmap.stats().dirty_slots, 48);
}

#[test]
fn a_mark_waits_for_busy_slots() {
    let (bitmap, _stores) = mirrored(SLOTS);
    let host = Mirror::default();
    let busy: Vec<_> =
        (0..48).map(|number| bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap()).collect();
    std::thread::scope(|scope| {
        let mark = scope.spawn(|| drop(bitmap.mark(&host, &[Object::new(99).metadata()]).unwrap()));
        while bitmap.state.lock().waiting_for_room == 0 {
            std::thread::yield_now();
        }
        drop(busy);
        mark.join().unwrap();
    });
}

/// A bitmap after a crash with as many slots dirty as marks may leave.
fn crashed() -> (Bitmap, PerLeg<Memory>, Mirror) {
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    for number in 0..48 {
        drop(bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap());
    }
    (reload(&stores, SLOTS), stores, host)
}

#[test]
fn what_the_resync_needs_is_never_cleared() {
    let (bitmap, stores, host) = crashed();
    assert_eq!(bitmap.unresynced().len(), 48);
    for number in 100..300 {
        drop(mark_and_check(&bitmap, &host, &stores, SLOTS, &[Object::new(number).metadata()]));
        assert_eq!(bitmap.stats().unresynced_slots, 48);
    }
    for slot in bitmap.unresynced() {
        bitmap.resynced(slot.index);
    }
    assert_eq!((bitmap.stats().unresynced_slots, bitmap.unresynced().len()), (0, 0));
    let idle = bitmap.idle(0);
    assert_eq!(bitmap.clear(&idle), idle.len());
    assert_eq!(bitmap.stats().dirty_slots, 0);
}

#[test]
fn a_crash_during_a_resync_still_fits() {
    let (bitmap, stores, host) = crashed();
    for number in 100..300 {
        drop(bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap());
    }
    let bitmap = reload(&stores, SLOTS);
    assert_eq!((bitmap.compare_all(), bitmap.stats().unresynced_slots), (false, 56));
    drop(bitmap.mark(&host, &[Object::new(999).metadata()]).unwrap());
}

#[test]
fn the_resync_cannot_take_the_last_eighth() {
    let (bitmap, stores, host) = crashed();
    let taken = (100..200)
        .take_while(|&number| bitmap.mark_for_resync(&host, &Object::new(number).from(0)).unwrap().is_some())
        .count();
    assert_eq!(taken, 8);
    assert_eq!(bitmap.stats().unresynced_slots, 56);
    for number in 200..300 {
        drop(bitmap.mark(&host, &[Object::new(number).metadata()]).unwrap());
    }
    // Another crash finds all of it needed and, with what marks had, perhaps more than fits.
    let bitmap = reload(&stores, SLOTS);
    assert!(bitmap.stats().unresynced_slots <= 56);
    assert!(bitmap.compare_all());
    drop(bitmap.mark(&host, &[Object::new(999).metadata()]).unwrap());
}

#[test]
fn many_threads_in_a_small_table_all_get_room() {
    let (bitmap, stores, host) = crashed();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (bitmap, host, stores) = (&bitmap, &host, &stores);
            scope.spawn(move || {
                for number in 0..100 {
                    let (one, two) = (Object::new(thread * 1000 + number), Object::new(5000 + number));
                    let wants = [one.data(number..number + 1), two.metadata()];
                    drop(mark_and_check(bitmap, host, stores, SLOTS, &wants));
                }
            });
        }
    });
    assert_eq!(bitmap.stats().unresynced_slots, 48);
}

#[test]
fn that_everything_is_to_be_compared_stays_said_when_a_leg_goes_away_before_that_is_over() {
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    bitmap.set_compare_all(&host).unwrap();
    // The resync has compared all, and the leg fails before it can say so.
    bitmap.set_away(Some(LegId::B));
    bitmap.all_compared(&host).unwrap();
    let object = Object::new(1);
    drop(bitmap.mark(&host, &[object.metadata()]).unwrap());
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!(loaded.compare_all || says(&loaded.dirty(), &object.metadata()));
}

/// Whoever is told that everything will be compared goes on without a mark of its own.
#[test]
fn that_everything_is_to_be_compared_is_believed_only_when_it_is_durable() {
    let (bitmap, stores) = mirrored(SLOTS);
    let host = Mirror::default();
    host.refuse.store(libc::EIO as u64, Ordering::SeqCst);
    stores.iter().for_each(|(_, store)| store.fail(libc::EIO));
    for _ in 0..2 {
        assert_eq!(bitmap.set_compare_all(&host).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    // Nor may it stand for marks when a leg goes away now.
    bitmap.set_away(Some(LegId::B));
    assert!(bitmap.mark(&host, &[Object::new(1).metadata()]).is_err());
    stores.iter().for_each(|(_, store)| store.fail(0));
    drop(bitmap.mark(&host, &[Object::new(1).metadata()]).unwrap());
    bitmap.set_compare_all(&host).unwrap();
    let loaded = alone(&stores[LegId::A], SLOTS);
    assert!(loaded.compare_all && says(&loaded.dirty(), &Object::new(1).metadata()));
}
