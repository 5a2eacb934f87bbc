//! One process, without faults: what requests answer, and what they store.

use futures::channel::mpsc as bodies;

use super::*;
use crate::store::CustomMetadata;

impl World {
    /// Sends a body of these chunks, and answers all calls.
    fn append(&mut self, append: Append, chunks: &[&[u8]]) -> Result<Progress> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let (uploads, upload) = (self.processes[FRESH].clone(), self.upload.clone());
        self.run(async move { uploads.append(&upload, append, stream::iter(chunks)).await })
    }

    fn status(&mut self) -> Result<Progress> {
        let (uploads, upload) = (self.processes[FRESH].clone(), self.upload.clone());
        self.run(async move { uploads.status(&upload).await })
    }

    fn delete(&mut self) -> Result<()> {
        let (uploads, upload) = (self.processes[FRESH].clone(), self.upload.clone());
        self.run(async move { uploads.delete(&upload).await })
    }

    /// Begins a PATCH whose body comes from the channel.
    fn begin(&mut self, append: Append) -> (bodies::UnboundedSender<Result<Bytes>>, Pending) {
        let (sender, body) = bodies::unbounded();
        let (uploads, upload) = (self.processes[FRESH].clone(), self.upload.clone());
        let work = self.runtime.spawn(async move { uploads.append(&upload, append, body).await });
        self.settle();
        (sender, work)
    }

    /// Answers calls until there are no more.
    fn settle(&mut self) {
        self.pause();
        self.answer_all();
    }

    fn names(&self) -> Vec<String> {
        let prefix = format!("incoming/{}.{}.", self.upload.key, self.upload.id);
        self.shared.objects().into_iter().map(|name| name.replace(&prefix, "")).collect()
    }
}

type Pending = tokio::task::JoinHandle<Result<Progress>>;

/// An upload of a file of so many bytes.
fn world(length: u64) -> World {
    World::new(length / UNIT, false, NO_FAULTS)
}

fn deferred(length: u64) -> World {
    World::new(length / UNIT, true, NO_FAULTS)
}

fn from(offset: u64) -> Append {
    Append { offset, ..Append::default() }
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
    result.expect_err("it is rejected").code()
}

fn unfinished(offset: u64, length: Option<u64>) -> Progress {
    Progress::Unfinished { offset, length }
}

fn image(progress: Progress) -> FinishedImage {
    match progress {
        Progress::Complete(image) => *image,
        unfinished => panic!("{unfinished:?}"),
    }
}

#[test]
fn file_in_one_body_is_an_image() {
    let mut world = world(120);
    let file = world.file.clone();
    let finished = image(world.append(from(0), &[&file]).unwrap());
    assert_eq!((finished.object.size, finished.crc64, finished.is_new), (120, Some(parts_crc64(&file)), true));
    let info = finished.info.expect("this request has read the header");
    assert_eq!(info.format, Format::Png);
    assert_eq!(world.image(), Some(file));
    assert_eq!(world.names(), [world.upload.key.to_string()]);
    let again = image(world.status().unwrap());
    assert_eq!((again.object.size, again.is_new, again.info), (120, false, None));
    let uploads = world.processes[FRESH].clone();
    assert_eq!(world.run(async move { uploads.inspect(&again).await }).unwrap(), info);
    assert_eq!(image(world.append(from(120), &[]).unwrap()).object.size, 120);
    assert_eq!(code(world.append(from(120), &[b"x"])), "inconsistent_length");
    let mismatch = world.append(from(7), &[b"x"]).unwrap_err();
    assert!(matches!(mismatch, Error::OffsetMismatch { offset: 120, provided: 7 }), "{mismatch:?}");
}

#[test]
fn every_cut_of_a_file_makes_the_same_image() {
    for (size, lists_checksums) in
        [1, 7, 47, 48, 49, 95, 96, 97, 119].into_iter().flat_map(|size| [(size, true), (size, false)])
    {
        let mut world = world(120);
        world.shared.list_checksums(lists_checksums);
        let file = world.file.clone();
        for (at, chunk) in file.chunks(size).enumerate() {
            let (offset, end) = ((at * size) as u64, (at * size + chunk.len()) as u64);
            let stored = world.append(from(offset), &[chunk]).unwrap();
            if end == 120 {
                // After a request that ended with a part, nothing but the list of the parts has their checksums.
                let is_known =
                    lists_checksums || !(1..=offset / size as u64).any(|at| (at * size as u64).is_multiple_of(PART));
                assert_eq!(image(stored).crc64, is_known.then(|| parts_crc64(&file)), "{size}");
                break;
            }
            assert_eq!(stored, unfinished(end, Some(120)));
            assert_eq!(world.status().unwrap(), unfinished(end, Some(120)));
            assert_eq!(world.stored(), end);
            let tails = usize::from(!end.is_multiple_of(PART));
            assert_eq!(world.tails().len(), tails, "only the last tail is kept: {:?}", world.names());
            world.check();
        }
        assert_eq!(world.image(), Some(file), "{size}");
        assert_eq!(world.names().len(), 1);
    }
}

#[test]
fn status_takes_two_calls() {
    let mut world = world(120);
    let bytes = world.file[..60].to_vec();
    world.append(from(0), &[&bytes]).unwrap();
    world.send(Request { process: 0, call: Call::Head });
    let mut calls = Vec::new();
    loop {
        world.pause();
        let Some((_, call, changes)) = world.shared.waiting().first().copied() else { break };
        assert!(!changes);
        calls.push(call);
        world.shared.answer(0, Fate::Answered);
    }
    assert_eq!(calls, ["list_kept", "list_parts"]);
}

#[test]
fn file_that_is_no_image_is_refused_and_nothing_remains() {
    for chunks in [&[&[b'x'; 118][..]][..], &[&[b'x'; 31], &[b'x'; 40]], &[&[b'x'; 46]]] {
        let mut world = world(120);
        // So few bytes may still be those of an image.
        assert_eq!(world.append(from(0), &[b"xx"]).unwrap(), unfinished(2, Some(120)));
        assert_eq!(code(world.append(from(2), chunks)), "invalid_file_type");
        assert_eq!((world.names().len(), world.shared.open_uploads(&world.upload.image())), (0, 0));
        assert_eq!(code(world.status()), "upload_gone");
    }
}

#[test]
fn short_file_that_is_no_image_is_refused_at_its_end() {
    let mut world = world(24);
    assert_eq!(code(world.append(from(0), &[b"GIF89a, but it is no GIF".as_ref()])), "invalid_file_type");
    assert_eq!(world.names().len(), 0);
    let mut empty = deferred(24);
    assert_eq!(code(empty.append(Append { completes: true, ..from(0) }, &[])), "no_file");
}

#[test]
fn image_of_another_format_than_the_key_is_refused() {
    let mut world = world(120);
    let mut jpeg = vec![0; 120];
    jpeg[..4].copy_from_slice(&[0xff, 0xd8, 0xff, 0xe0]);
    assert_eq!(code(world.append(from(0), &[&jpeg])), "invalid_file_type");
}

#[test]
fn more_bytes_than_the_length_are_rejected_and_those_before_stay() {
    let mut world = world(120);
    let file = world.file.clone();
    assert_eq!(code(world.append(from(0), &[&file[..60], &[1; 61]])), "inconsistent_length");
    assert_eq!(world.status().unwrap(), unfinished(60, Some(120)));
    let announced = Append { content_length: Some(61), ..from(60) };
    assert_eq!(code(world.append(announced, &[&[1; 61]])), "inconsistent_length");
    assert_eq!(image(world.append(from(60), &[&file[60..]]).unwrap()).object.size, 120);
}

#[test]
fn file_beyond_the_limit_is_rejected_while_it_arrives() {
    let mut world = deferred(120);
    world.upload.max_size = 70;
    let file = world.file.clone();
    assert_eq!(code(world.append(from(0), &[&file[..70], &file[70..71]])), "payload_too_large");
    assert_eq!(world.status().unwrap(), unfinished(70, None));
}

#[test]
fn length_is_said_once() {
    let mut world = deferred(120);
    let file = world.file.clone();
    let said = |length, offset| Append { length: Some(length), ..from(offset) };
    assert_eq!(world.append(from(0), &[&file[..16]]).unwrap(), unfinished(16, None));
    assert_eq!(world.append(said(120, 16), &[&file[16..60]]).unwrap(), unfinished(60, Some(120)));
    assert_eq!(world.status().unwrap(), unfinished(60, Some(120)));
    for other in [79, 81] {
        assert_eq!(code(world.append(said(other, 60), &[&file[60..]])), "inconsistent_length");
    }
    assert_eq!(image(world.append(said(120, 60), &[&file[60..]]).unwrap()).object.size, 120);
    assert_eq!(world.names().len(), 1);
}

#[test]
fn clean_end_of_the_last_body_is_the_length() {
    let last = |offset| Append { completes: true, ..from(offset) };
    let mut world = deferred(120);
    let file = world.file.clone();
    let broken: Vec<Result<Bytes>> = vec![Ok(Bytes::copy_from_slice(&file[..30])), Err(Error::TruncatedBody(None))];
    let (uploads, upload) = (world.processes[FRESH].clone(), world.upload.clone());
    let answer = world.run(async move { uploads.append(&upload, last(0), stream::iter(broken)).await });
    assert_eq!(code(answer), "truncated_body");
    assert_eq!(world.status().unwrap(), unfinished(30, None));
    assert_eq!(image(world.append(last(30), &[&file[30..]]).unwrap()).object.size, 120);

    let mut known = super::single::world(120);
    assert_eq!(code(known.append(last(0), &[&file[..96]])), "inconsistent_length");
    assert_eq!(known.status().unwrap(), unfinished(96, Some(120)));
}

#[test]
fn request_that_is_dropped_stores_what_has_arrived() {
    let mut world = world(120);
    let file = world.file.clone();
    let (body, request) = world.begin(from(0));
    body.unbounded_send(Ok(Bytes::copy_from_slice(&file[..60]))).unwrap();
    world.settle();
    request.abort();
    world.pause();
    let tasks = world.processes[FRESH].0.uploads.tasks().clone();
    assert!(!tasks.is_empty(), "shutdown waits for it");
    world.settle();
    assert!(tasks.is_empty());
    assert_eq!(world.stored(), 60);
    assert_eq!(world.processes[FRESH].0.uploads.used(), (0, 0));
}

#[test]
fn newer_request_ends_the_older_one_and_keeps_its_bytes() {
    let mut world = world(120);
    let file = world.file.clone();
    let (body, older) = world.begin(from(0));
    body.unbounded_send(Ok(Bytes::copy_from_slice(&file[..60]))).unwrap();
    world.settle();
    assert_eq!(world.status().unwrap(), unfinished(60, Some(120)));
    assert!(body.is_closed(), "the older request does not read on");
    assert_eq!(world.runtime.block_on(older).unwrap().unwrap(), unfinished(60, Some(120)));
}

#[test]
fn client_that_sends_nothing_holds_nothing() {
    let mut world = world(120);
    let (body, request) = world.begin(from(0));
    assert!(!request.is_finished());
    assert_eq!((world.processes[FRESH].0.uploads.used(), world.processes[FRESH].0.uploads.open()), ((0, 0), 0));
    assert_eq!(world.status().unwrap(), unfinished(0, Some(120)));
    assert!(body.is_closed());
    assert_eq!(world.runtime.block_on(request).unwrap().unwrap(), unfinished(0, Some(120)));
}

#[test]
fn delete_removes_everything_unless_the_image_exists() {
    let mut world = world(120);
    let file = world.file.clone();
    world.append(from(0), &[&file[..60]]).unwrap();
    world.delete().unwrap();
    assert_eq!((world.names().len(), world.shared.open_uploads(&world.upload.image())), (0, 0));
    assert_eq!(code(world.status()), "upload_gone");
    assert_eq!(code(world.append(from(60), &[&file[60..]])), "upload_gone");
    world.delete().unwrap();

    let mut world = super::single::world(120);
    world.append(from(0), &[&file]).unwrap();
    assert_eq!(code(world.delete()), "already_complete");
    assert_eq!(world.image(), Some(file));
}

#[test]
fn image_of_another_upload_is_compared() {
    for (other_length, same) in [(120, true), (144, false)] {
        let mut world = world(120);
        let whole = world.file.clone();
        world.append(from(0), &[&whole[..60]]).unwrap();
        // Another upload of the same key completes.
        let mut other = ResumableUpload { id: Uuid::from_u128(8), length: Some(other_length), ..world.upload.clone() };
        other.upload_id = Some(world.shared.create(&other.image(), other.id));
        let uploads = world.processes[0].clone();
        let body = stream::iter([Ok(Bytes::from(file(other_length / UNIT)))]);
        world.run(async move { uploads.append(&other, from(0), body).await }).unwrap();
        let last = world.append(from(60), &[&whole[60..]]);
        assert_eq!(last.as_ref().is_ok_and(|last| !image(last.clone()).is_new), same);
        assert_eq!(world.shared.open_uploads(&world.upload.image()), 0, "the upload that is not needed is aborted");
        // Every further request gets the same answer, also in another process.
        match same {
            true => {
                assert_eq!(image(world.status().unwrap()).object.size, 120);
                assert_eq!(image(world.append(from(120), &[]).unwrap()).object.size, 120);
                assert_eq!(code(world.delete()), "already_complete");
                assert_eq!(world.names().len(), 2, "the image, and the record that it is the same");
            }
            false => {
                assert_eq!([code(last), code(world.status())], ["already_exists"; 2]);
                world.delete().unwrap();
                assert_eq!(world.names().len(), 1);
            }
        }
    }
}

/// The record is of one image, and not of one that replaces it.
#[test]
fn upload_that_was_equal_to_an_image_is_not_answered_with_its_successor() {
    let mut world = world(120);
    let (name, bytes) = (world.upload.image(), world.file.clone());
    world.shared.lay_image(&name, &bytes, Uuid::from_u128(8));
    assert!(!image(world.append(from(0), &[&bytes]).unwrap()).is_new);
    world.shared.lay_image(&name, &file(18), Uuid::from_u128(9));
    assert_eq!(code(world.status()), "already_exists");
}

/// Nothing is decided, so that the client can ask again.
#[test]
fn upload_remains_if_the_other_image_cannot_be_read() {
    let mut world = world(120);
    let (name, bytes) = (world.upload.image(), world.file.clone());
    world.shared.lay_image(&name, &bytes, Uuid::from_u128(8));
    world.send(Request { process: 0, call: Call::Patch { from: 0, to: 15, how: PLAIN } });
    let answer = Arc::clone(&world.requests[0].answer);
    while answer.lock().is_none() {
        world.pause();
        let Some((_, call, _)) = world.shared.waiting().first().copied() else { continue };
        world.shared.answer(0, if call == "read" { Fate::Dropped } else { Fate::Answered });
    }
    let failed = answer.lock().take().unwrap();
    assert_eq!(code(failed), "outcome_unknown");
    assert_eq!(world.shared.open_uploads(&name), 1);
    assert_eq!(world.status().unwrap(), unfinished(96, Some(120)));
    assert!(!image(world.append(from(96), &[&bytes[96..]]).unwrap()).is_new);
    assert_eq!(world.shared.open_uploads(&name), 0);
}

#[test]
fn upload_whose_parts_do_not_fit_the_buffers_is_over() {
    let mut world = world(120);
    world.upload.part_size = PART + 1;
    let file = world.file.clone();
    assert_eq!(code(world.append(from(0), &[&file])), "upload_gone");
    // Smaller ones fit.
    let mut world = super::single::world(120);
    world.upload.part_size = 20;
    assert_eq!(code(world.append(from(0), &[&file])), "invalid_file_type", "the header of a PNG does not fit");
}

fn new_upload(world: &World, length: Option<u64>, is_fixed_key: bool) -> NewUpload {
    let (key, custom) = (world.upload.key.clone(), CustomMetadata::new());
    NewUpload { key, format: Format::Png, length, max_size: 200, custom, tus_metadata: None, is_fixed_key }
}

#[test]
fn creation_creates_an_upload_that_is_removed_unless_it_is_acknowledged() {
    for is_fixed_key in [false, true] {
        let mut world = world(120);
        let name = world.upload.image();
        let new = new_upload(&world, Some(120), is_fixed_key);
        let uploads = world.processes[FRESH].clone();
        let created = world.run(async move { uploads.create(new).await }).unwrap();
        assert_eq!(world.shared.open_uploads(&name), 2, "that of the test, and this one");
        let upload = created.upload().clone();
        assert_eq!((upload.length, upload.part_size, upload.is_fixed_key), (Some(120), PART, is_fixed_key));
        let uploads = world.processes[FRESH].clone();
        let bytes = Bytes::copy_from_slice(&world.file[..60]);
        let appended = upload.clone();
        world.run(async move { uploads.append(&appended, from(0), stream::iter([Ok(bytes)])).await }).unwrap();
        drop(created);
        world.settle();
        assert_eq!((world.shared.open_uploads(&name), world.names().len()), (1, 0));

        let (uploads, new) = (world.processes[FRESH].clone(), new_upload(&world, None, is_fixed_key));
        world.run(async move { uploads.create(new).await }).unwrap().acknowledged();
        world.settle();
        assert_eq!(world.shared.open_uploads(&name), 2);
    }
}

#[test]
fn image_of_an_unacknowledged_creation_is_removed_unless_its_key_was_fixed() {
    for is_fixed_key in [false, true] {
        let mut world = world(120);
        let (uploads, new) = (world.processes[FRESH].clone(), new_upload(&world, Some(120), is_fixed_key));
        let created = world.run(async move { uploads.create(new).await }).unwrap();
        let (uploads, upload) = (world.processes[FRESH].clone(), created.upload().clone());
        let body = stream::iter([Ok(Bytes::from(world.file.clone()))]);
        world.run(async move { uploads.append(&upload, from(0), body).await }).unwrap();
        assert!(world.image().is_some());
        drop(created);
        world.settle();
        assert_eq!(world.image().is_some(), is_fixed_key);
    }
}

#[test]
fn invalid_creations_create_nothing() {
    let mut world = world(120);
    for (length, expected) in [(0, "no_file"), (201, "payload_too_large")] {
        let (uploads, new) = (world.processes[FRESH].clone(), new_upload(&world, Some(length), false));
        assert_eq!(code(world.run(async move { uploads.create(new).await.map(drop) })), expected);
    }
    assert_eq!(world.shared.open_uploads(&world.upload.image()), 1, "that of the test");
    let bytes = world.file.clone();
    world.append(from(0), &[&bytes]).unwrap();
    let (uploads, new) = (world.processes[FRESH].clone(), new_upload(&world, Some(120), true));
    assert_eq!(code(world.run(async move { uploads.create(new).await.map(drop) })), "already_exists");
}

#[test]
fn upload_of_a_whole_file_is_complete_if_its_image_exists() {
    let mut world = world(120);
    let (upload, metadata) = new_upload(&world, Some(120), false).of_whole_file(PART as usize);
    assert_eq!((metadata.origin, metadata.content_type.as_str()), (Some(upload.id), "image/png"));
    world.upload = upload;
    assert_eq!(code(world.status()), "upload_gone");
    world.delete().unwrap();
    let (store, name) = (Memory::new(&world.shared, 0), world.upload.image());
    let body = payload(Bytes::from(world.file.clone()));
    world.run(async move { store.put(&name, &metadata, body).await }).unwrap();
    assert_eq!(image(world.status().unwrap()).object.size, 120);
    assert_eq!(image(world.append(from(120), &[]).unwrap()).object.size, 120);
    assert_eq!(code(world.append(from(0), &[b"x"])), "offset_mismatch");
    assert_eq!(code(world.delete()), "already_complete");
}

#[test]
fn upload_of_a_whole_file_is_compared_with_the_image_of_another() {
    for same in [true, false] {
        let mut world = world(120);
        let bytes = world.file.clone();
        let (upload, _) = new_upload(&world, Some(120), true).of_whole_file(PART as usize);
        world.shared.lay_image(&upload.image(), &bytes, Uuid::from_u128(8));
        world.upload = upload.clone();
        assert_eq!(code(world.status()), "already_exists");
        let crc64 = parts_crc64(&bytes) ^ u64::from(!same);
        let uploads = world.processes[FRESH].clone();
        let whole = ObjectDigest { size: 120, crc64: Some(crc64) };
        let concluded = world.run(async move { uploads.conclude(&upload, whole).await });
        match same {
            true => {
                concluded.unwrap();
                assert_eq!(image(world.status().unwrap()).object.size, 120);
            }
            false => assert_eq!([code(concluded), code(world.status())], ["already_exists"; 2]),
        }
    }
}
