/** By these the next agent finds what is its own. */
export const LABELS = {
  /** The agent: its state directory, as a digest. */
  agent: 'hedgerow.agent',
  instance: 'hedgerow.instance',
  run: 'hedgerow.run',
  /** `none`: rules keep it from the world outside. */
  egress: 'hedgerow.egress',
  /** What it may call all the same, separated by spaces. */
  egressTo: 'hedgerow.egress-to',
  /** Of a volume: `app.namespace.name`. */
  volume: 'hedgerow.volume',
} as const
