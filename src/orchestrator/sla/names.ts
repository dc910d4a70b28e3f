import { labelFault } from '../../core/model/label.ts'
import type { Fields } from './fields.ts'
import { quoted, type Findings } from './findings.ts'

/** The lower-case name under `key`; reported and `undefined` when it is not a valid name. */
export function readName(fields: Fields, key: string, findings: Findings): string | undefined {
  const given = fields.text(key)
  if (given === undefined) {
    if (!fields.isGiven(key)) findings.fault(fields.at(key), 'is missing')
    return undefined
  }
  const name = hyphenated(given.toLowerCase())
  const fault = labelFault(name)
  if (fault !== undefined) {
    const offer = offeredName(given)
    const remedy =
      offer === undefined
        ? 'use 1 to 63 letters, digits and inner hyphens, and no policy word such as rr or closest'
        : `write ${quoted(offer)}`
    findings.fault(fields.at(key), `${quoted(given)} cannot be a name: ${fault}`, remedy)
    return undefined
  }
  if (name !== given.toLowerCase()) {
    findings.warn(fields.at(key), `a name cannot contain underscores: ${quoted(given)} becomes ${quoted(name)}`)
  }
  return name
}

/** The name that was probably meant: `Example Application` becomes `example-application`. */
function offeredName(given: string): string | undefined {
  const plain = given.normalize('NFKD').replaceAll(/\p{M}/gu, '').toLowerCase()
  const name = plain
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, MAX_LABEL)
    .replaceAll(/^-+|-+$/g, '')
  return labelFault(name) === undefined ? name : undefined
}

const MAX_LABEL = 63

/** The oldest documents write `preprocessing_collection`, which no host name may hold (RFC 952). */
export function hyphenated(text: string): string {
  return text.replaceAll('_', '-')
}

/** Labels joined by dots, lower-case, or `undefined` when one of them cannot be a name. */
export function labelsOf(text: string): string[] | undefined {
  const labels = text.toLowerCase().split('.').map(hyphenated)
  return labels.every((label) => labelFault(label) === undefined) ? labels : undefined
}
