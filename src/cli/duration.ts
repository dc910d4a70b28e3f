import { MeshError } from '../core/errors.ts'

const SECONDS_PER: Readonly<Record<string, number>> = { '': 1, s: 1, m: 60, h: 3_600, d: 86_400 }

/** Whole seconds, or for example `30m`. @throws MeshError USAGE */
export function secondsOf(given: string, option: string): number {
  const [, count = '', unit = ''] = /^(\d{1,9})([smhd]?)$/.exec(given) ?? []
  const seconds = Number(count) * (SECONDS_PER[unit] ?? 0)
  if (seconds >= 1) return seconds
  throw new MeshError('USAGE', {
    option,
    given,
    remedy: 'Expected whole seconds, or a duration such as 30m, 1h or 7d.',
  })
}
