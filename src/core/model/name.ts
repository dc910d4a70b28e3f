import { POLICIES, instanceOf, isDigits, policyOf, POLICY_WORDS, type Choice, type Policy } from './choice.ts'
import { labelFault } from './label.ts'

/*
 *   canonical   shop . acme   . cart . prod   . any . closest   .local     app, its ns, service, its ns, instance, policy
 *   short       shop . acme   . cart          . any . closest   .local     the table finds the service's namespace
 *   reversed    any  . closest . cart . prod  . shop . acme     .local     the order of the Oakestra paper
 *
 * Reserved words cannot be names, so the position of the instance and the policy distinguishes the forms.
 * On the path of every DNS question: no regular expression, no throw, one split.
 */

/** A parsed semantic name. `serviceNamespace` is absent in the short form; the table finds out which service is meant. */
export interface ServiceName {
  app: string
  appNamespace: string
  service: string
  serviceNamespace?: string
  choice: Choice
  /** `local`, `internal`, or a configured zone. */
  zone: string
}

export type ParsedName =
  | { kind: 'name'; name: ServiceName }
  /** In one of our zones, but not a name; `label` is the offending one, `reason` says why. */
  | { kind: 'invalid'; label: string; reason: string }
  /** Not in one of our zones. */
  | { kind: 'outside' }

/** RFC 1035 §3.1, written without the final dot. */
export const NAME_LIMIT = 253

/** Reads a name in any of the three forms; `zones` are lower-case and without dots at their ends. */
export function parseName(fqdn: string, zones: readonly string[]): ParsedName {
  const text = lowerCase(fqdn.endsWith('.') ? fqdn.slice(0, -1) : fqdn)
  const zone = zoneOf(text, zones)
  if (zone === undefined) return OUTSIDE
  if (text.length === zone.length) return invalid('', 'the zone itself; a name has labels before it')
  if (text.length > NAME_LIMIT) {
    return invalid(text.slice(0, text.indexOf('.')), `the whole name is longer than ${NAME_LIMIT} characters`)
  }
  const labels = text.slice(0, -zone.length - 1).split('.')
  if (labels.length === 6) return isReversed(labels) ? read(REVERSED, labels, zone) : read(CANONICAL, labels, zone)
  if (labels.length === 5) return read(SHORT, labels, zone)
  return wrongCount(labels)
}

/** The canonical form. */
export function printName(parts: Required<Omit<ServiceName, 'zone'>>, zone: string): string {
  const { app, appNamespace, service, serviceNamespace, choice } = parts
  return `${app}.${appNamespace}.${service}.${serviceNamespace}.${choice.instance}.${choice.policy}.${zone}`
}

const OUTSIDE: ParsedName = { kind: 'outside' }

/** The position of each part in a form; -1: it is left out. */
interface Form {
  app: number
  appNamespace: number
  service: number
  serviceNamespace: number
  instance: number
  policy: number
}
const CANONICAL: Form = { app: 0, appNamespace: 1, service: 2, serviceNamespace: 3, instance: 4, policy: 5 }
const SHORT: Form = { app: 0, appNamespace: 1, service: 2, serviceNamespace: -1, instance: 3, policy: 4 }
const REVERSED: Form = { app: 4, appNamespace: 5, service: 2, serviceNamespace: 3, instance: 0, policy: 1 }

function isReversed(labels: readonly string[]): boolean {
  const [first, second, , , fifth, sixth] = labels as [string, string, string, string, string, string]
  if (instanceOf(fifth) !== undefined && policyOf(sixth) !== undefined) return false
  // One of the two is enough: the other is then the fault to report.
  return first === 'any' || isDigits(first) || policyOf(second) !== undefined
}

function read(form: Form, labels: readonly string[], zone: string): ParsedName {
  const at = (place: number) => labels[place] as string
  const { app, appNamespace, service, serviceNamespace } = form
  const instance = instanceOf(at(form.instance))
  const policy = policyOf(at(form.policy))
  if (instance === undefined || policy === undefined) return choiceFault(form, labels, { instance, policy })
  const fault =
    partFault('app', at(app)) ??
    partFault('namespace of the app', at(appNamespace)) ??
    partFault('service', at(service)) ??
    (serviceNamespace < 0 ? undefined : partFault('namespace of the service', at(serviceNamespace)))
  if (fault !== undefined) return fault
  const name: ServiceName = {
    app: at(app),
    appNamespace: at(appNamespace),
    service: at(service),
    choice: { instance, policy },
    zone,
  }
  if (serviceNamespace >= 0) name.serviceNamespace = at(serviceNamespace)
  return { kind: 'name', name }
}

function partFault(what: string, label: string): ParsedName | undefined {
  const fault = labelFault(label)
  return fault === undefined ? undefined : invalid(label, `not the name of a ${what}: ${fault}`)
}

function choiceFault(
  form: Form,
  labels: readonly string[],
  found: { instance: number | 'any' | undefined; policy: Policy | undefined },
): ParsedName {
  const instanceWord = labels[form.instance] as string
  const policyWord = labels[form.policy] as string
  if (instanceOf(policyWord) !== undefined) {
    return policyOf(instanceWord) === undefined
      ? invalid(policyWord, `an instance, but no policy after it; one of ${POLICIES.join(', ')} is missing`)
      : invalid(policyWord, `the instance comes before the policy: ${policyWord}.${instanceWord}`)
  }
  if (found.instance === undefined) return invalid(instanceWord, instanceFault(instanceWord))
  return invalid(policyWord, policyFault(policyWord))
}

function instanceFault(word: string): string {
  if (!isDigits(word)) return 'neither `any` nor an instance number'
  return word.length > 6 && !word.startsWith('0')
    ? 'an instance number has at most six digits'
    : 'an instance number has no leading zeros'
}

function policyFault(word: string): string {
  const near = nearest(word, POLICY_WORDS.keys())
  return near === undefined
    ? `no such policy; there are ${POLICIES.join(', ')}`
    : `no such policy; did you mean ${near}?`
}

function wrongCount(labels: readonly string[]): ParsedName {
  const count = labels.length === 1 ? '1 label' : `${labels.length} labels`
  return invalid(
    labels[labels.length - 1] as string,
    `${count} before the zone; a name has six (app.namespace.service.namespace.instance.policy), or five without the service's namespace`,
  )
}

function invalid(label: string, reason: string): ParsedName {
  return { kind: 'invalid', label, reason }
}

/** The longest zone that the name is in: `mesh.local` before `local`. */
function zoneOf(text: string, zones: readonly string[]): string | undefined {
  let best: string | undefined
  for (const zone of zones) {
    if (!text.endsWith(zone) || (best !== undefined && best.length >= zone.length)) continue
    const before = text.length - zone.length - 1
    if (before < 0 || text.charCodeAt(before) === DOT) best = zone
  }
  return best
}

const DOT = 46

/** Only ASCII has case here: U+212A (Kelvin) must not become a `k`. */
function lowerCase(text: string): string {
  for (let i = 0; i < text.length; i++) if (text.charCodeAt(i) > 127) return text
  return text.toLowerCase()
}

/** The word at most two typing errors away. */
function nearest(word: string, words: Iterable<string>): string | undefined {
  let best: string | undefined
  let bestErrors = 3
  for (const candidate of words) {
    if (Math.abs(candidate.length - word.length) > 2) continue
    const errors = typingErrors(word, candidate)
    // Short words are all near each other: more than half of it must be right.
    if (errors < bestErrors && errors * 2 < candidate.length) [best, bestErrors] = [candidate, errors]
  }
  return best
}

/** Letters to add, drop or change (Levenshtein). */
function typingErrors(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      next.push(Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1))
    }
    row = next
  }
  return row[b.length] as number
}
