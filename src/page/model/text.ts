/** Numbers and times as people read them. */

const UNITS = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1_000, 's'],
] as const

/** `4 s`, `12 min`, `3 d`: the largest unit alone. */
export function spanText(ms: number): string {
  const [size, unit] = UNITS.find(([size]) => ms >= size) ?? [1_000, 's']
  return `${Math.max(0, Math.floor(ms / size))} ${unit}`
}

/** `now`, `12 s ago`, `in 3 min`. */
export function whenText(at: number, now: number): string {
  const ms = now - at
  if (Math.abs(ms) < 1_000) return 'now'
  return ms > 0 ? `${spanText(ms)} ago` : `in ${spanText(-ms)}`
}

/** `512 MiB`, `3.4 GiB`. */
export function memoryText(mb: number | undefined): string {
  if (mb === undefined) return '–'
  if (mb < 1_000) return `${mb < 10 ? trimmed(mb) : Math.round(mb)} MiB`
  return `${trimmed(mb / 1_024)} GiB`
}

/** Cores: `0.03`, `1.5`, `12`. */
export function coresText(cores: number | undefined): string {
  if (cores === undefined) return '–'
  return cores < 1 ? cores.toFixed(2) : trimmed(cores)
}

function trimmed(value: number): string {
  return value.toFixed(value < 10 ? 1 : 0).replace(/\.0$/, '')
}

/** `1 instance`, `3 instances`. */
export function counted(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`
}

export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** A service `app.app-ns.name.name-ns` as its own name, and what it belongs to; an instance with its number. */
export function nameParts(id: string): { name: string; within: string } {
  const [app = '', appNamespace = '', name = '', namespace = '', ordinal] = id.split('.')
  if (name === '') return { name: id, within: '' }
  const own = ordinal === undefined ? name : `${name} ${ordinal}`
  const apart = namespace === appNamespace ? '' : ` / ${namespace}`
  return { name: own, within: `${app}.${appNamespace}${apart}` }
}
