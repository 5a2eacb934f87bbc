use super::*;
use proptest::prelude::*;

/// Every fixture with its format and dimensions.
pub(crate) const FIXTURES: [(&[u8], Format, u32, u32); 20] = [
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
    (include_bytes!("../../../tests/fixtures/zeros_between_segments.jpg"), Format::Jpeg, 16, 12),
    (include_bytes!("../../../tests/fixtures/text_between_segments.jpg"), Format::Jpeg, 16, 12),
    (include_bytes!("../../../tests/fixtures/frame_beyond_screen.gif"), Format::Gif, 16, 12),
    (include_bytes!("../../../tests/fixtures/os2_16_bytes.bmp"), Format::Bmp, 16, 12),
    (include_bytes!("../../../tests/fixtures/turned_before_extents_48x64.avif"), Format::Avif, 48, 64),
];

const JPEG: &[u8] = FIXTURES[0].0;
const PNG: &[u8] = FIXTURES[2].0;
const BMP: &[u8] = FIXTURES[4].0;

/// Returns a JPEG with `inserted` after its start marker.
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

fn sniff(bytes: &[u8], whole: bool) -> Sniff {
    inspect(if whole { Known::whole(bytes) } else { Known::beginning(bytes) })
}

/// The same for a stream, from which only more of the first bytes can be read.
fn sniff_prefix(bytes: &[u8]) -> Sniff {
    match sniff(bytes, false) {
        Sniff::NeedRange(_) => Sniff::NeedMore,
        answer => answer,
    }
}

fn image(format: Format, width: u32, height: u32) -> Sniff {
    Sniff::Image(ImageInfo { format, width, height })
}

fn not_an_image(detected: &'static str) -> Sniff {
    Sniff::NotAnImage { detected: Some(detected) }
}

fn changed(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

#[test]
fn every_prefix_of_every_fixture() {
    for (bytes, format, width, height) in FIXTURES {
        let expected = image(format, width, height);
        assert_eq!(sniff(bytes, true), expected);
        let firsts = (0..=bytes.len()).map(|end| sniff_prefix(&bytes[..end]));
        let answers: Vec<Sniff> = firsts.skip_while(|answer| *answer == Sniff::NeedMore).collect();
        assert!(!answers.is_empty() && answers.iter().all(|answer| *answer == expected), "{format}: {answers:?}");
    }
}

#[test]
fn truncated_header_is_rejected_at_the_end_of_the_file() {
    for (bytes, format, width, height) in FIXTURES {
        let by_end: Vec<Sniff> = (0..=bytes.len()).map(|end| sniff(&bytes[..end], true)).collect();
        assert!(!matches!(by_end[9], Sniff::Image(_)), "{format}");
        let is_image = |answer: &Sniff| *answer == image(format, width, height);
        // No truncated header may be taken for an image of another size.
        let refused = by_end.iter().take_while(|answer| matches!(answer, Sniff::NotAnImage { .. })).count();
        assert!(by_end[refused..].iter().all(is_image), "{format}");
    }
    assert_eq!(sniff(&PNG[..20], true), not_an_image("png"));
    assert_eq!(sniff(b"", true), Sniff::NotAnImage { detected: None });
}

fn iso_box(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len() + 8).unwrap();
    [&size.to_be_bytes()[..], kind, content].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// Returns a HEIC whose only item, number 1, has these properties in this order.
fn heic(properties: &[Vec<u8>]) -> Vec<u8> {
    let indices: Vec<u8> = (1..=u8::try_from(properties.len()).unwrap()).collect();
    heic_of(properties, &indices, &[])
}

/// Returns a HEIC whose item 1 has the properties with these indices, in this order, and which also contains `others`.
fn heic_of(properties: &[Vec<u8>], indices: &[u8], others: &[u8]) -> Vec<u8> {
    let count = u8::try_from(indices.len()).unwrap();
    let ipma = iso_box(b"ipma", &[&[0, 0, 0, 0, 0, 0, 0, 1, 0, 1, count][..], indices].concat());
    let pitm = iso_box(b"pitm", &[0, 0, 0, 0, 0, 1]);
    let iprp = iso_box(b"iprp", &[iso_box(b"ipco", &properties.concat()), ipma].concat());
    [iso_box(b"ftyp", b"heic\0\0\0\0"), iso_box(b"meta", &[&[0; 4], others, &pitm, &iprp].concat())].concat()
}

/// Returns a HEIC of 64 x 48 pixels whose properties follow `size` bytes of media data. The size of the media data has
/// 64 bits.
pub(crate) fn heic_with_late_properties(size: usize) -> Vec<u8> {
    let whole = heic(&[ispe(64, 48)]);
    let (ftyp, meta) = whole.split_at(16);
    let mdat = [&[0, 0, 0, 1][..], b"mdat", &(size as u64 + 16).to_be_bytes(), &vec![0; size]].concat();
    [ftyp, &mdat, meta].concat()
}

/// Returns a grey TIFF with its directory after its pixels.
pub(crate) fn tiff_with_late_directory(width: u32, height: u32, big_endian: bool) -> Vec<u8> {
    let short = |number: u16| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let long = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let size = width * height;
    let entry = |tag: u16, value: u32| [&short(tag)[..], &short(4), &long(1), &long(value)].concat();
    let mark: &[u8] = if big_endian { b"MM" } else { b"II" };
    let directory = [&short(3)[..], &entry(254, 0), &entry(256, width), &entry(257, height), &[0; 4]].concat();
    [mark, &short(42), &long(size + 8), &vec![0; size as usize], &directory].concat()
}

fn ispe(width: u32, height: u32) -> Vec<u8> {
    iso_box(b"ispe", &numbers(&[0, width, height]))
}

/// Returns a CleanApertureBox whose fractions have the denominator 2.
fn clap(width: u32, height: u32) -> Vec<u8> {
    iso_box(b"clap", &numbers(&[width * 2, 2, height * 2, 2, 0, 1, 0, 1]))
}

#[test]
fn heif_images_are_cropped_and_rotated() {
    let turn = |angle: u8| iso_box(b"irot", &[angle]);
    let of = |properties: &[Vec<u8>]| sniff(&heic(properties), true);
    assert_eq!(of(&[ispe(128, 64), clap(101, 51)]), image(Format::Heic, 101, 51));
    assert_eq!(of(&[ispe(128, 64), clap(101, 51), turn(3)]), image(Format::Heic, 51, 101));
    assert_eq!(of(&[ispe(128, 64), turn(2)]), image(Format::Heic, 128, 64));
    // A crop that hides more than padding is ignored. A crop larger than the image is an error.
    assert_eq!(of(&[ispe(60_000, 64), clap(16, 12)]), image(Format::Heic, 60_000, 64));
    assert_eq!(of(&[ispe(128, 64), clap(129, 64)]), not_an_image("heic"));
    assert_eq!(of(&[clap(16, 12)]), not_an_image("heic"));
    assert_eq!(of(&[turn(1)]), not_an_image("heic"));
}

#[test]
fn heif_properties_apply_in_the_order_of_association() {
    let (turn, mirror) = (iso_box(b"irot", &[1]), iso_box(b"imir", &[1]));
    let properties = [turn.clone(), ispe(200, 200), clap(101, 51), mirror, ispe(128, 64)];
    let of = |indices: &[u8]| sniff(&heic_of(&properties, indices, &[]), true);
    // The highest bit marks an essential property. Index 0 means that there is no property.
    for indices in [&[1, 5][..], &[5, 1], &[0x81, 4, 0, 5], &[4, 0x85, 0x81]] {
        assert_eq!(of(indices), image(Format::Heic, 64, 128), "{indices:?}");
    }
    for indices in [&[3, 5][..], &[5, 3], &[3, 4, 5]] {
        assert_eq!(of(indices), image(Format::Heic, 101, 51), "{indices:?}");
    }
    assert_eq!(of(&[3, 1, 5]), image(Format::Heic, 51, 101));
    assert_eq!(of(&[4, 5]), image(Format::Heic, 128, 64));
    assert_eq!(sniff(&heic(&[turn, ispe(128, 64)]), true), image(Format::Heic, 64, 128));
}

/// Returns the boxes which declare that item 1 is of `kind` and has `data`.
fn derived(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let infe = iso_box(b"infe", &[&[2, 0, 0, 0, 0, 1, 0, 0][..], kind, &[0]].concat());
    let iinf = iso_box(b"iinf", &[&[0, 0, 0, 0, 0, 1][..], &infe].concat());
    // Offsets and lengths have four bytes. The data is in `idat` at offset 3.
    let extent = [0, 0, 0, 3, 0, 0, 0, 8];
    let iloc = iso_box(b"iloc", &[&[1, 0, 0, 0, 0x44, 0, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1][..], &extent].concat());
    [iinf, iloc, iso_box(b"idat", &[&[9; 3], data].concat())].concat()
}

#[test]
fn heif_grid_has_the_size_in_its_own_data() {
    let grid = derived(b"grid", &[0, 0, 1, 1, 0x4e, 0x20, 0, 12]);
    let wide_grid = derived(b"grid", &[0, 1, 1, 1, 0, 0, 0x4e, 0x20, 0, 0, 0, 12]);
    let overlay = derived(b"iovl", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x4e, 0x20, 0, 12]);
    for others in [grid, wide_grid, overlay] {
        let of = |properties: &[Vec<u8>], indices: &[u8]| sniff(&heic_of(properties, indices, &others), true);
        assert_eq!(of(&[ispe(64, 64)], &[1]), image(Format::Heic, 20_000, 64));
        assert_eq!(of(&[ispe(64, 64), iso_box(b"irot", &[3])], &[2]), image(Format::Heic, 12, 20_000));
    }
    let coded = derived(b"hvc1", &[0, 0, 1, 1, 0x4e, 0x20, 0, 12]);
    assert_eq!(sniff(&heic_of(&[ispe(64, 64)], &[1], &coded), true), image(Format::Heic, 64, 64));
}

#[test]
fn heif_properties_after_media_data() {
    let bytes = heic_with_late_properties(600);
    assert_eq!(sniff(&bytes, false), image(Format::Heic, 64, 48));
    assert_eq!(sniff_prefix(&bytes[..bytes.len() - 1]), Sniff::NeedMore);
    let to_the_end = [&heic(&[ispe(1, 1)])[..16], &[0, 0, 0, 0], b"mdat", &[0; 600]].concat();
    assert_eq!(sniff(&to_the_end, false), not_an_image("heic"));
}

/// Returns a BigTIFF of this width and height.
fn big_tiff(width: u64, height: u64) -> Vec<u8> {
    let entry = |tag: u16, value: u64| {
        [&tag.to_le_bytes()[..], &16_u16.to_le_bytes(), &1_u64.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    [b"II\x2b\0\x08\0\0\0", &16_u64.to_le_bytes()[..], &2_u64.to_le_bytes(), &entry(256, width), &entry(257, height)]
        .concat()
}

#[test]
fn tiff_directories() {
    assert_eq!(sniff(&big_tiff(16, 12), true), image(Format::Tiff, 16, 12));
    assert_eq!(sniff(&big_tiff(1 << 33, 12), true), not_an_image("tiff"));
    let late = tiff_with_late_directory(40, 30, true);
    assert_eq!(sniff(&late, false), image(Format::Tiff, 40, 30));
    assert_eq!(sniff_prefix(&late[..1_000]), Sniff::NeedMore);
    assert_eq!(sniff(&late[..1_000], true), not_an_image("tiff"));
    // A missing dimension, and one of a type that is not a number.
    assert_eq!(sniff(&changed(&late, 1_208 + 14, &[1, 2]), true), not_an_image("tiff"));
    assert_eq!(sniff(&changed(&late, 1_208 + 16, &[0, 2]), true), not_an_image("tiff"));
    let endless = changed(&big_tiff(16, 12), 16, &[0xff; 8]);
    assert_eq!(sniff(&endless, true), not_an_image("tiff"));
}

/// Tests version-1 boxes with 15-bit indices, which few encoders write, and another item before the primary one.
#[test]
fn heif_items_with_wide_numbers() {
    let ipco = iso_box(b"ipco", &[ispe(200, 200), ispe(30, 20), iso_box(b"irot", &[1])].concat());
    let other = [0, 0, 0, 1, 1, 0, 1];
    let wanted = [0, 0, 0, 7, 2, 0, 2, 0x80, 3];
    let ipma = iso_box(b"ipma", &[&[1, 0, 0, 1, 0, 0, 0, 2][..], &other, &wanted].concat());
    let pitm = iso_box(b"pitm", &[1, 0, 0, 0, 0, 0, 0, 7]);
    let meta = iso_box(b"meta", &[vec![0; 4], pitm, iso_box(b"iprp", &[ipco, ipma].concat())].concat());
    let file = [iso_box(b"ftyp", b"heic\0\0\0\0"), meta].concat();
    assert_eq!(sniff(&file, true), image(Format::Heic, 20, 30));
}

#[test]
fn ftyp_box_without_brands_is_rejected_at_once() {
    let bytes = [&iso_box(b"ftyp", b"mif1")[..], &[0; 600]].concat();
    assert_eq!(sniff(&bytes, false), not_an_image("mp4"));
}

#[test]
fn jpeg_fill_bytes_and_standalone_markers_are_skipped() {
    for inserted in [&[0xff; 5][..], &[0xff, 0x01], &[0xff, 0xd0, 0xff, 0xff, 0xd7]] {
        assert_eq!(sniff(&jpeg_with(inserted), true), image(Format::Jpeg, 16, 12), "{inserted:?}");
    }
    assert_eq!(sniff(&jpeg_with_long_metadata(), false), image(Format::Jpeg, 16, 12));
    assert_eq!(sniff(&jpeg_with_long_metadata()[..100_000], false), Sniff::NeedMore);
}

#[test]
fn jpeg_without_a_frame_is_rejected() {
    let cases: [&[u8]; 3] = [&[0xff, 0xd9], &[0xff, 0xd8], &[0xff, 0xda, 0, 8]];
    for inserted in cases {
        // After one valid segment, so that the leading mark is valid.
        let bytes = jpeg_with(&[&[0xff, 0xe0, 0, 2], inserted].concat());
        assert_eq!(sniff(&bytes, false), not_an_image("jpeg"), "{inserted:?}");
    }
    assert_eq!(sniff(&[0xff, 0xd8, 0xff].repeat(100), true), not_an_image("jpeg"));
}

#[test]
fn jpeg_continues_at_the_next_marker() {
    let cases: [&[u8]; 9] = [
        b"\0",
        b"hello",
        &[0; 5000],
        // 0xff escaped by a zero, as in entropy-coded data.
        &[0xff, 0, 0, 4],
        &[0xff, 0, 0xff, 0xff, 0, 0xff],
        // Two lengths that do not include their own bytes, and one that is too short for its segment.
        &[0xff, 0xe0, 0, 0],
        &[0xff, 0xe0, 0, 1],
        &[0xff, 0xe1, 0, 6, 1, 2, 3, 4, 5, 6],
        // A length that is one byte too long includes the first byte of the next marker.
        &[0xff, 0xfe, 0, 5, 1, 2, 0xff, 0xfe, 0, 4, 1, 2],
    ];
    for inserted in cases {
        let bytes = jpeg_with(&[&[0xff, 0xe0, 0, 2], inserted].concat());
        assert_eq!(sniff(&bytes, true), image(Format::Jpeg, 16, 12), "{inserted:?}");
    }
}

/// Returns a GIF with a screen of this size, `between`, and a first frame of this position and size.
fn gif(screen: (u16, u16), between: &[u8], place: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let numbers = |pair: (u16, u16)| [pair.0.to_le_bytes(), pair.1.to_le_bytes()].concat();
    let color_table = [&[0x80, 0, 0][..], &[0; 6]].concat();
    [b"GIF89a", &numbers(screen)[..], &color_table, between, b",", &numbers(place), &numbers(frame), &[0, 2, 0, b';']]
        .concat()
}

#[test]
fn gif_size_covers_the_screen_and_the_first_frame() {
    let of = |bytes: &[u8]| sniff(bytes, true);
    assert_eq!(of(&gif((4, 4), b"", (0, 0), (16, 12))), image(Format::Gif, 16, 12));
    assert_eq!(of(&gif((4, 400), b"", (0, 0), (16, 12))), image(Format::Gif, 16, 400));
    assert_eq!(of(&gif((400, 400), b"", (7, 9), (16, 12))), image(Format::Gif, 400, 400));
    assert_eq!(of(&gif((0, 0), b"", (0, 0), (16, 12))), image(Format::Gif, 16, 12));
    // A frame that begins inside the screen and ends outside it.
    assert_eq!(of(&gif((16, 12), b"", (10, 10), (16, 12))), image(Format::Gif, 26, 22));
    // Two extensions, one of them with several blocks, and an extra empty block.
    let extensions = b"!\xf9\x04\0\0\0\0\0!\xff\x03abc\x02,,\0\0";
    assert_eq!(of(&gif((4, 4), extensions, (0, 0), (16, 12))), image(Format::Gif, 16, 12));
    assert_eq!(of(&gif((4, 4), b";", (0, 0), (16, 12))), not_an_image("gif"));
}

#[test]
fn bitmap_headers_of_every_length_in_use() {
    for size in [16, 20, 40, 42, 46, 52, 56, 64, 108, 124] {
        assert_eq!(sniff(&changed(BMP, 14, &[size]), true), image(Format::Bmp, 16, 12), "{size}");
    }
    for size in [0, 4, 11, 14, 18, 41, 65, 68, 109, 125, 255] {
        assert_eq!(sniff(&changed(BMP, 14, &[size]), true), Sniff::NotAnImage { detected: None }, "{size}");
    }
}

#[test]
fn zero_width_or_height_is_rejected() {
    let frame = JPEG.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    assert_eq!(sniff(&changed(JPEG, frame + 5, &[0, 0]), true), not_an_image("jpeg"));
    assert_eq!(sniff(&changed(PNG, 16, &[0; 4]), true), not_an_image("png"));
    assert_eq!(sniff(&gif((16, 0), b"", (0, 0), (16, 0)), true), not_an_image("gif"));
    assert_eq!(sniff(&changed(BMP, 22, &[0; 4]), true), not_an_image("bmp"));
}

#[test]
fn mark_alone_is_not_sufficient() {
    assert_eq!(sniff(&changed(PNG, 4, b"\n"), true), Sniff::NotAnImage { detected: None });
    assert_eq!(sniff(&changed(PNG, 12, b"IDAT"), true), not_an_image("png"));
    assert_eq!(
        sniff(b"GIF88a \x10\0\x0c\0 and so on, long enough to tell", true),
        Sniff::NotAnImage { detected: None }
    );
    assert_eq!(sniff(b"BMW builds cars, motorcycles and engines.", true), not_an_image("text"));
    assert_eq!(sniff(&changed(BMP, 18, &[0xff; 4]), true), not_an_image("bmp"));
    assert_eq!(sniff(&changed(FIXTURES[7].0, 23, &[0]), true), not_an_image("webp"));
    assert_eq!(sniff(&changed(FIXTURES[8].0, 20, &[0]), true), not_an_image("webp"));
}

#[test]
fn bitmaps_of_extreme_height() {
    let lowest = changed(BMP, 22, &i32::MIN.to_le_bytes());
    assert_eq!(sniff(&lowest, true), image(Format::Bmp, 16, 1 << 31));
}

#[test]
fn webp_scaling_bits_are_not_part_of_the_width() {
    let scaled = changed(FIXTURES[7].0, 27, &[0x40]);
    assert_eq!(sniff(&scaled, true), image(Format::Webp, 16, 12));
}

#[test]
fn heif_format_is_detected_by_brand() {
    let avif = FIXTURES[10].0;
    assert_eq!(sniff(&changed(avif, 8, b"mif1"), true), image(Format::Avif, 16, 12));
    assert_eq!(sniff(&changed(avif, 8, b"avis"), true), image(Format::Avif, 16, 12));
    assert_eq!(sniff(&changed(avif, 8, b"isom"), true), not_an_image("mp4"));
    assert_eq!(sniff(&changed(FIXTURES[11].0, 8, b"msf1"), true), image(Format::Heic, 16, 12));
}

#[test]
fn other_file_types_are_named() {
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
        assert_eq!(sniff(bytes, true), not_an_image(name), "{name}");
    }
    assert_eq!(sniff(&[0, 1, 2, 3], true), Sniff::NotAnImage { detected: None });
}

#[test]
fn detected_name_does_not_depend_on_the_prefix_length() {
    let svg = format!("<?xml version='1.0'?>{}<svg>{}", " ".repeat(400), " ".repeat(400));
    let answers = (0..svg.len()).map(|end| sniff(&svg.as_bytes()[..end], false));
    let first = answers.into_iter().find(|answer| *answer != Sniff::NeedMore);
    assert_eq!(first, Some(not_an_image("svg")));
}

pub(crate) fn policy(formats: &[Format], header_scan_limit: usize) -> Policy {
    Policy {
        formats: formats.to_vec(),
        key_format: None,
        max_upload_size: 1 << 20,
        max_pixels: 1 << 28,
        header_scan_limit,
    }
}

#[test]
fn check_rejects_disallowed_format_before_its_dimensions_arrive() {
    let heic = FIXTURES[11].0;
    let only_jpeg = policy(&[Format::Jpeg], 1 << 20);
    for end in [MARK, heic.len()] {
        let Err(Error::InvalidFileType { detected, accepted, .. }) = check(&heic[..end], false, &only_jpeg) else {
            panic!("accepted")
        };
        assert_eq!(accepted, ["jpeg"]);
        assert_eq!(detected, Some("heic"));
    }
    assert!(matches!(check(&heic[..MARK], false, &policy(&[Format::Heic], 1 << 20)), Ok(None)));
}

#[test]
fn check_rejects_at_the_scan_limit_for_any_prefix() {
    let bytes = jpeg_with_long_metadata();
    let frame = bytes.len() - JPEG.len();
    let short = policy(&[Format::Jpeg], frame);
    assert!(matches!(check(&bytes[..frame - 1], false, &short), Ok(None)));
    for (end, whole) in [(frame, false), (bytes.len(), false), (bytes.len(), true)] {
        let Err(Error::InvalidFileType { detected, limit, .. }) = check(&bytes[..end], whole, &short) else {
            panic!("accepted")
        };
        assert_eq!((detected, limit), (Some("jpeg"), Some(ScanLimit { bytes: frame as u64, format: None })));
    }
    let info = check(&bytes, false, &policy(&[Format::Jpeg], bytes.len())).unwrap();
    assert_eq!(info.map(|info| (info.width, info.height)), Some((16, 12)));
}

/// A directory at a known offset beyond the limit is rejected without reading up to the limit.
#[test]
fn check_rejects_directory_beyond_the_scan_limit_at_once() {
    let all = policy(&Format::ALL, 5_000);
    let limit = |format| Some(ScanLimit { bytes: 5_000, format: Some(format) });
    let (tiff, heic) = (tiff_with_late_directory(100, 51, false), heic_with_late_properties(6_000));
    for (bytes, format) in [(&tiff[..MARK], Format::Tiff), (&tiff, Format::Tiff), (&heic[..MARK], Format::Heic)] {
        let Err(Error::InvalidFileType { limit: found, .. }) = check(bytes, false, &all) else { panic!("accepted") };
        assert_eq!(found, limit(format));
    }
    assert!(matches!(check(&tiff, true, &policy(&Format::ALL, tiff.len())), Ok(Some(_))));
    let Err(error) = check(&tiff, false, &policy(&[Format::Jpeg], 5_000)) else { panic!("accepted") };
    assert!(matches!(error, Error::InvalidFileType { limit: None, .. }), "the format is not allowed at any offset");
}

#[test]
fn check_of_an_empty_file_returns_no_file() {
    let policy = policy(&[Format::Jpeg], 1 << 20);
    assert!(matches!(check(b"", true, &policy), Err(Error::NoFile { fields: None })));
    assert!(matches!(check(b"", false, &policy), Ok(None)));
}

/// Generates a fixture with some bytes replaced, truncated at any offset, and repeated or not.
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

/// Checks that the first result other than `NeedMore` equals the result for the whole file, and never changes.
fn results_agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    let last = sniff(bytes, true);
    prop_assert!(!matches!(last, Sniff::NeedMore | Sniff::NeedRange(_)));
    for end in 0..=bytes.len() {
        let answer = sniff_prefix(&bytes[..end]);
        prop_assert!(answer == Sniff::NeedMore || answer == last, "{:?} at {}, {:?} at the end", answer, end, last);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_images_never_panic_and_keep_their_result(bytes in mutated()) {
        results_agree(&bytes)?;
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_keep_their_result(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        results_agree(&bytes)?;
    }
}
