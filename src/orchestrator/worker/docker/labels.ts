/** By these the next agent finds what is its own. */
export const LABELS = {
  /** The agent: its state directory, as a digest. */
  agent: 'hedgerow.agent',
  instance: 'hedgerow.instance',
  run: 'hedgerow.run',
  /** `none`: rules keep it from the world outside. */
  egress: 'hedgerow.egress',
  /** Of a volume: `app.namespace.name`. */
  volume: 'hedgerow.volume',
} as const
