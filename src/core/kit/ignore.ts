/** For an event or a rejection that must have a listener and needs no action: what ended reports it elsewhere. */
export function ignore(): void {
  // nothing to do
}
