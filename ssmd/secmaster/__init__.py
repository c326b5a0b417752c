"""The security master: which markets there are, in what state; journalled changes, a view of them, and how they are found."""
