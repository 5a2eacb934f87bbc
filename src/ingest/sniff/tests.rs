use super::*;
use proptest::prelude::*;

/// Every fixture with its format and dimensions.
pub(crate) const FIXTURES: [(&[u8], Format, u32, u32); 15] = [
    (include_bytes!("../../../tests/fixtures/plain.jpg"), Format::Jpeg, 16, 12),
    (include_bytes!("../../../tests/fixtures/progressive.jpg"), Format::Jpeg, 16, 12),
    (include_bytes!("../../../tests/fixtures/plain.png"), Format::Png, 16, 12),
    (include_bytes!("../../../tests/fixtures/plain.gif"), Format::Gif, 16, 12),
    (include_bytes!("../../../tests/fixtures/plain.bmp"), Format::Bmp, 16, 12),
    (include_bytes!("../../../tests/fixtures/top_down.bmp"), Format::Bmp, 16, 12),
    (include_bytes!("../../../tests/fixtures/os2.bmp"), Format::Bmp, 16, 12),
    (include_bytes!("../../../tests/fixtures/lossy.webp"), Format::Webp, 16, 12),
    (include_bytes!("../../../tests/fixtures/lossless.webp"), Format::Webp, 16, 12),
    (include_bytes!("../../../tests/fixtures/extended.webp"), Format::Webp, 16, 12),
    (include_bytes!("../../../tests/fixtures/plain.avif"), Format::Avif, 16, 12),
    (include_bytes!("../../../tests/fixtures/plain.heic"), Format::Heic, 16, 12),
    (include_bytes!("../../../tests/fixtures/thumbnail_128x96.heic"), Format::Heic, 128, 96),
    (include_bytes!("../../../tests/fixtures/little_endian.tiff"), Format::Tiff, 16, 12),
    (include_bytes!("../../../tests/fixtures/big_endian.tiff"), Format::Tiff, 16, 12),
];

const JPEG: &[u8] = FIXTURES[0].0;
const PNG: &[u8] = FIXTURES[2].0;
const BMP: &[u8] = FIXTURES[4].0;

/// A JPEG with what its start marker is followed by: `inserted`, then the rest.
pub(crate) fn jpeg_with(inserted: &[u8]) -> Vec<u8> {
    [&JPEG[..2], inserted, &JPEG[2..]].concat()
}

/// About 100 KB of EXIF and colour profile before the frame header.
pub(crate) fn jpeg_with_long_metadata() -> Vec<u8> {
    let segment = |marker: u8, body: usize| {
        let length = u16::try_from(body + 2).unwrap().to_be_bytes();
        [&[0xff, marker][..], &length, &vec![0xff; body]].concat()
    };
    jpeg_with(&[segment(0xe1, 60_000), segment(0xe2, 40_000)].concat())
}

fn image(format: Format, width: u32, height: u32) -> Sniff {
    Sniff::Image(ImageInfo { format, width, height })
}

fn not(detected: &'static str) -> Sniff {
    Sniff::NotAnImage { detected: Some(detected) }
}

fn changed(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn every_fixture_by_every_prefix() {
    for (bytes, format, width, height) in FIXTURES {
        let expected = image(format, width, height);
        assert_eq!(inspect(bytes, true), expected);
        let firsts = (0..=bytes.len()).map(|end| inspect(&bytes[..end], false));
        let answers: Vec<Sniff> = firsts.skip_while(|answer| *answer == Sniff::NeedMore).collect();
        assert!(!answers.is_empty() && answers.iter().all(|answer| *answer == expected), "{format}: {answers:?}");
    }
}

#[test]
fn a_cut_off_header_is_refused_once_it_is_whole() {
    for (bytes, format, width, height) in FIXTURES {
        let by_end: Vec<Sniff> = (0..=bytes.len()).map(|end| inspect(&bytes[..end], true)).collect();
        assert!(!matches!(by_end[9], Sniff::Image(_)), "{format}");
        let is_image = |answer: &Sniff| *answer == image(format, width, height);
        // Never another image on the way.
        let refused = by_end.iter().take_while(|answer| matches!(answer, Sniff::NotAnImage { .. })).count();
        assert!(by_end[refused..].iter().all(is_image), "{format}");
    }
    assert_eq!(inspect(&PNG[..20], true), not("png"));
    assert_eq!(inspect(b"", true), Sniff::NotAnImage { detected: None });
}

fn iso_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len() + 8).unwrap();
    [&size.to_be_bytes()[..], kind, content].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// A HEIC whose one item, number 1, has these properties in this order.
fn heic(properties: &[Vec<u8>]) -> Vec<u8> {
    let indices: Vec<u8> = (1..=u8::try_from(properties.len()).unwrap()).collect();
    let count = u8::try_from(indices.len()).unwrap();
    let ipma = iso_box(b"ipma", &[&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, count][..], &indices].concat());
    let pitm = iso_box(b"pitm", &[0, 0, 0, 0, 0, 1]);
    let iprp = iso_box(b"iprp", &[iso_box(b"ipco", &properties.concat()), ipma].concat());
    [iso_box(b"ftyp", b"heic\0\0\0\0"), iso_box(b"meta", &[vec![0; 4], pitm, iprp].concat())].concat()
}

fn ispe(width: u32, height: u32) -> Vec<u8> {
    iso_box(b"ispe", &numbers(&[0, width, height]))
}

/// Fractions of two.
fn clap(width: u32, height: u32) -> Vec<u8> {
    iso_box(b"clap", &numbers(&[width * 2, 2, height * 2, 2, 0, 1, 0, 1]))
}

#[test]
fn heif_images_are_cropped_and_turned() {
    let turn = |angle: u8| iso_box(b"irot", &[angle]);
    let of = |properties: &[Vec<u8>]| inspect(&heic(properties), true);
    assert_eq!(of(&[ispe(128, 64), clap(101, 51)]), image(Format::Heic, 101, 51));
    assert_eq!(of(&[ispe(128, 64), clap(101, 51), turn(3)]), image(Format::Heic, 51, 101));
    assert_eq!(of(&[ispe(128, 64), turn(2)]), image(Format::Heic, 128, 64));
    // A crop that hides more than padding does not count; one larger than the image is wrong.
    assert_eq!(of(&[ispe(60_000, 64), clap(16, 12)]), image(Format::Heic, 60_000, 64));
    assert_eq!(of(&[ispe(128, 64), clap(129, 64)]), not("heic"));
    assert_eq!(of(&[clap(16, 12)]), not("heic"));
    assert_eq!(of(&[turn(1)]), not("heic"));
}

/// Version-1 boxes with 15-bit indices, as few encoders write them, and another item before the primary one.
#[test]
fn heif_items_with_wide_numbers() {
    let ipco = iso_box(b"ipco", &[ispe(200, 200), ispe(30, 20), iso_box(b"irot", &[1])].concat());
    let other = [0, 0, 0, 1, 1, 0, 1];
    let wanted = [0, 0, 0, 7, 2, 0, 2, 0x80, 3];
    let ipma = iso_box(b"ipma", &[&[1, 0, 0, 1, 0, 0, 0, 2][..], &other, &wanted].concat());
    let pitm = iso_box(b"pitm", &[1, 0, 0, 0, 0, 0, 0, 7]);
    let meta = iso_box(b"meta", &[vec![0; 4], pitm, iso_box(b"iprp", &[ipco, ipma].concat())].concat());
    let file = [iso_box(b"ftyp", b"heic\0\0\0\0"), meta].concat();
    assert_eq!(inspect(&file, true), image(Format::Heic, 20, 30));
}

#[test]
fn an_ftyp_box_of_no_brands_is_refused_at_once() {
    let bytes = [&iso_box(b"ftyp", b"mif1")[..], &[0; 600]].concat();
    assert_eq!(inspect(&bytes, false), not("mp4"));
}

#[test]
fn jpeg_fill_bytes_and_standalone_markers_are_passed() {
    for inserted in [&[0xff; 5][..], &[0xff, 0x01], &[0xff, 0xd0, 0xff, 0xff, 0xd7]] {
        assert_eq!(inspect(&jpeg_with(inserted), true), image(Format::Jpeg, 16, 12), "{inserted:?}");
    }
    assert_eq!(inspect(&jpeg_with_long_metadata(), false), image(Format::Jpeg, 16, 12));
    assert_eq!(inspect(&jpeg_with_long_metadata()[..100_000], false), Sniff::NeedMore);
}

#[test]
fn jpeg_without_a_frame_is_refused() {
    let cases: [&[u8]; 6] =
        [&[0xff, 0xd9], &[0xff, 0xd8], &[0xff, 0xda, 0, 8], &[0, 0], &[0xff, 0, 0, 4], &[0xff, 0xe0, 0, 1]];
    for inserted in cases {
        // Behind one good segment, so that the leading mark is right.
        let bytes = jpeg_with(&[&[0xff, 0xe0, 0, 2], inserted].concat());
        assert_eq!(inspect(&bytes, false), not("jpeg"), "{inserted:?}");
    }
}

#[test]
fn a_side_of_zero_is_no_image() {
    let frame = JPEG.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    assert_eq!(inspect(&changed(JPEG, frame + 5, &[0, 0]), true), not("jpeg"));
    assert_eq!(inspect(&changed(PNG, 16, &[0; 4]), true), not("png"));
    assert_eq!(inspect(&changed(FIXTURES[3].0, 8, &[0, 0]), true), not("gif"));
    assert_eq!(inspect(&changed(BMP, 22, &[0; 4]), true), not("bmp"));
}

#[test]
fn weak_marks_do_not_suffice() {
    assert_eq!(inspect(&changed(PNG, 4, b"\n"), true), Sniff::NotAnImage { detected: None });
    assert_eq!(inspect(&changed(PNG, 12, b"IDAT"), true), not("png"));
    assert_eq!(
        inspect(b"GIF88a \x10\0\x0c\0 and so on, long enough to tell", true),
        Sniff::NotAnImage { detected: None }
    );
    assert_eq!(inspect(b"BMW builds cars, motorcycles and engines.", true), not("text"));
    assert_eq!(inspect(&changed(BMP, 18, &[0xff; 4]), true), not("bmp"));
    assert_eq!(inspect(&changed(FIXTURES[7].0, 23, &[0]), true), not("webp"));
    assert_eq!(inspect(&changed(FIXTURES[8].0, 20, &[0]), true), not("webp"));
}

#[test]
fn bitmaps_of_extreme_height() {
    let lowest = changed(BMP, 22, &i32::MIN.to_le_bytes());
    assert_eq!(inspect(&lowest, true), image(Format::Bmp, 16, 1 << 31));
}

#[test]
fn webp_scaling_bits_are_no_part_of_the_width() {
    let scaled = changed(FIXTURES[7].0, 27, &[0x40]);
    assert_eq!(inspect(&scaled, true), image(Format::Webp, 16, 12));
}

#[test]
fn brands_tell_heif_images_apart() {
    let avif = FIXTURES[10].0;
    assert_eq!(inspect(&changed(avif, 8, b"mif1"), true), image(Format::Avif, 16, 12));
    assert_eq!(inspect(&changed(avif, 8, b"avis"), true), image(Format::Avif, 16, 12));
    assert_eq!(inspect(&changed(avif, 8, b"isom"), true), not("mp4"));
    assert_eq!(inspect(&changed(FIXTURES[11].0, 8, b"msf1"), true), image(Format::Heic, 16, 12));
}

#[test]
fn what_is_not_an_image_is_named() {
    let long_preface = format!("<?xml version='1.0'?><!-- {} --><svg xmlns='x'>", "-".repeat(300));
    let cases: [(&[u8], &str); 10] = [
        (b"%PDF-1.7\n%\xe2\xe3", "pdf"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\xef\xbb\xbf  <SVG width='1'>", "svg"),
        (long_preface.as_bytes(), "svg"),
        (b"<?xml version='1.0'?><a/>", "xml"),
        (b"\n<!DOCTYPE html><svg>", "svg"),
        (b"<html><p>Not found", "html"),
        ("schöne Grüße".as_bytes(), "text"),
        (b"8BPS\0\x01\0\0\0\0\0\0\0\x03", "psd"),
    ];
    for (bytes, name) in cases {
        assert_eq!(inspect(bytes, true), not(name), "{name}");
    }
    assert_eq!(inspect(&[0, 1, 2, 3], true), Sniff::NotAnImage { detected: None });
}

#[test]
fn a_name_does_not_depend_on_how_the_bytes_arrive() {
    let svg = format!("<?xml version='1.0'?>{}<svg>{}", " ".repeat(400), " ".repeat(400));
    let answers = (0..svg.len()).map(|end| inspect(&svg.as_bytes()[..end], false));
    let first = answers.into_iter().find(|answer| *answer != Sniff::NeedMore);
    assert_eq!(first, Some(not("svg")));
}

fn policy(formats: &[Format], header_scan_limit: usize) -> Policy {
    Policy { formats: formats.to_vec(), max_upload_size: 1 << 20, max_pixels: 1 << 28, header_scan_limit }
}

#[test]
fn check_refuses_what_is_not_allowed_before_its_dimensions_show() {
    let heic = FIXTURES[11].0;
    let only_jpeg = policy(&[Format::Jpeg], 1 << 20);
    for end in [MARK, heic.len()] {
        let Err(Error::InvalidFileType { detected }) = check(&heic[..end], false, &only_jpeg) else { panic!("taken") };
        assert_eq!(detected, Some("heic"));
    }
    assert!(matches!(check(&heic[..MARK], false, &policy(&[Format::Heic], 1 << 20)), Ok(None)));
}

#[test]
fn check_gives_up_at_the_scan_limit_wherever_the_bytes_were_cut() {
    let bytes = jpeg_with_long_metadata();
    let frame = bytes.len() - JPEG.len();
    let short = policy(&[Format::Jpeg], frame);
    assert!(matches!(check(&bytes[..frame - 1], false, &short), Ok(None)));
    for (end, whole) in [(frame, false), (bytes.len(), false), (bytes.len(), true)] {
        let Err(Error::InvalidFileType { detected }) = check(&bytes[..end], whole, &short) else { panic!("taken") };
        assert_eq!(detected, Some("jpeg"));
    }
    let info = check(&bytes, false, &policy(&[Format::Jpeg], bytes.len())).unwrap();
    assert_eq!(info.map(|info| (info.width, info.height)), Some((16, 12)));
}

#[test]
fn check_of_nothing_is_no_file() {
    let policy = policy(&[Format::Jpeg], 1 << 20);
    assert!(matches!(check(b"", true, &policy), Err(Error::NoFile)));
    assert!(matches!(check(b"", false, &policy), Ok(None)));
}

/// A fixture with some bytes replaced, cut off somewhere, or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12);
    (0..FIXTURES.len(), edits, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(which, edits, cut, double)| {
        let mut bytes = FIXTURES[which].0.to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len().min(200));
            bytes[at] = byte;
        }
        bytes.truncate(1 + cut.index(bytes.len()));
        if double { bytes.repeat(2) } else { bytes }
    })
}

/// The first answer, and whether all later ones are the same.
fn answers_agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let last = inspect(bytes, true);
    prop_assert_ne!(last, Sniff::NeedMore);
    for end in 0..=bytes.len() {
        let answer = inspect(&bytes[..end], false);
        prop_assert!(answer == Sniff::NeedMore || answer == last, "{:?} at {}, {:?} at last", answer, end, last);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_images_never_panic_and_keep_their_answer(bytes in mutated()) {
        answers_agree(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_keep_their_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        answers_agree(&bytes)?;
    }
}
