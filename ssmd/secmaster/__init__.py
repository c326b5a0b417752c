"""The security master: which markets there are and in what state; journalled changes, a view of them, and the synchronisation that finds them."""
