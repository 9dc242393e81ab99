//! The small world that the embedded base model knows: things and their kinds, words of praise and blame,
//! opposites, people and places.

/// A kind of thing and its members. The kind's name is a label word: one token of the tokenizer.
pub(super) const KINDS: &[(&str, &[&str])] = &[
    (
        "fruit",
        &[
            "apple", "pear", "plum", "peach", "cherry", "grape", "lemon", "melon", "fig", "mango", "berry",
            "lime",
        ],
    ),
    (
        "animal",
        &["dog", "cat", "horse", "cow", "sheep", "fox", "mouse", "rabbit", "goat", "bear", "wolf", "duck"],
    ),
    (
        "tool",
        &[
            "hammer", "saw", "drill", "axe", "shovel", "wrench", "rake", "knife", "brush", "ladder", "pump",
            "file",
        ],
    ),
    (
        "cloth",
        &["shirt", "coat", "hat", "sock", "glove", "scarf", "dress", "boot", "belt", "cap", "skirt", "vest"],
    ),
    (
        "vehicle",
        &["car", "bus", "train", "boat", "truck", "plane", "bike", "tram", "ship", "van", "cart", "sled"],
    ),
    (
        "plant",
        &["rose", "tulip", "oak", "pine", "fern", "daisy", "lily", "birch", "moss", "ivy", "maple", "palm"],
    ),
];

/// Words of praise.
pub(super) const GOOD: &[&str] = &[
    "great", "lovely", "fresh", "warm", "kind", "clean", "bright", "tasty", "quick", "fair", "gentle",
    "smooth", "superb", "charming", "pleasant", "helpful",
];

/// Words of blame.
pub(super) const BAD: &[&str] = &[
    "awful", "stale", "rude", "dirty", "dull", "bitter", "slow", "broken", "noisy", "rough", "nasty",
    "boring", "horrid", "gloomy", "clumsy", "useless",
];

/// Pairs of opposites; both sides are label words.
pub(super) const OPPOSITES: &[(&str, &str)] = &[
    ("hot", "cold"),
    ("big", "small"),
    ("wet", "dry"),
    ("dark", "light"),
    ("old", "new"),
    ("high", "low"),
    ("fast", "slow"),
    ("hard", "soft"),
    ("full", "empty"),
    ("rich", "poor"),
];

/// Colours; label words.
pub(super) const COLOURS: &[&str] = &["red", "blue", "green", "white", "black", "brown"];

/// People; label words.
pub(super) const PEOPLE: &[&str] = &["Ann", "Ben", "Cara", "Dan", "Eva", "Finn", "Gus", "Hana"];

/// Places; label words.
pub(super) const PLACES: &[&str] = &["house", "garden", "school", "market", "park", "river"];

/// Things that a review may be about.
pub(super) const SUBJECTS: &[&str] =
    &["soup", "film", "hotel", "song", "book", "meal", "room", "show", "shop", "bread", "game", "trip"];

/// Number words in order.
pub(super) const NUMBERS: &[&str] =
    &["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];

/// Every word that may be an answer.
pub(super) fn label_words() -> Vec<&'static str> {
    let mut words: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).collect();
    words.extend(OPPOSITES.iter().flat_map(|(a, b)| [*a, *b]));
    words.extend(COLOURS);
    words.extend(PEOPLE);
    words.extend(PLACES);
    words.extend(["good", "bad", "yes", "no", "more", "less"]);
    words
}

/// `a` or `an`.
pub(super) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
