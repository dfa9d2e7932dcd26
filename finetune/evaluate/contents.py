"""Everyday things and places that prompts of the grid name. Torch-free."""

THINGS = (
    *("apple", "alarm clock", "sailboat", "rocket", "guitar", "umbrella", "bicycle", "pear", "house", "cat"),
    *("fish", "mushroom", "key", "flower", "airplane", "book", "dog", "car", "crown", "snowman", "bird", "train"),
    *("cup of coffee", "butterfly", "tree", "camera", "pizza", "horse", "candle", "drum", "bus", "elephant", "hat"),
    *("strawberry", "hammer", "moon", "snail", "telephone", "glasses", "shoe", "chair", "penguin", "lemon", "tent"),
)
PLACES = (
    *("on a beach", "in the snow", "on a wooden table", "in front of a city skyline", "in a forest", "on a red carpet"),
    *("in a kitchen", "on a boat", "beside a river", "on a mountain", "in a library", "under a bridge"),
)
