/*
 * A condition on the labels of a node, as Kubernetes writes it in a label selector:
 *
 *     zone=eu      zone in (eu, us)      zone!=eu      zone notin (eu, us)      gpu      !gpu
 */

export interface LabelRule {
  key: string
  operator: 'in' | 'not-in' | 'exists' | 'absent'
  /** Of `in` and `not-in`; else empty. */
  values: string[]
}

export const LABEL_OPERATORS = ['in', 'not-in', 'exists', 'absent'] as const satisfies readonly LabelRule['operator'][]

const KEY = '[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?'
const FORMS = {
  set: new RegExp(`^(${KEY})\\s+(in|notin)\\s*\\(([^()]{1,2000})\\)$`),
  equal: new RegExp(`^(${KEY})\\s*(!=|==?)\\s*([^\\s=!(),]{1,256})$`),
  key: new RegExp(`^(!?)\\s*(${KEY})$`),
}
const MOST_VALUES = 64

/** `undefined` when the text is no such condition. */
export function readLabelRule(text: string): LabelRule | undefined {
  const wanted = text.trim()
  const set = FORMS.set.exec(wanted)
  if (set !== null) {
    const values = (set[3] ?? '').split(',').map((value) => value.trim())
    if (values.length > MOST_VALUES || values.some((value) => value === '' || value.length > 256)) return undefined
    return { key: set[1] as string, operator: set[2] === 'in' ? 'in' : 'not-in', values }
  }
  const equal = FORMS.equal.exec(wanted)
  if (equal !== null)
    return { key: equal[1] as string, operator: equal[2] === '!=' ? 'not-in' : 'in', values: [equal[3] as string] }
  const key = FORMS.key.exec(wanted)
  return key === null
    ? undefined
    : { key: key[2] as string, operator: key[1] === '!' ? 'absent' : 'exists', values: [] }
}

export function printLabelRule({ key, operator, values }: LabelRule): string {
  if (operator === 'exists') return key
  if (operator === 'absent') return `!${key}`
  if (values.length === 1) return `${key}${operator === 'in' ? '=' : '!='}${values[0]}`
  return `${key} ${operator === 'in' ? 'in' : 'notin'} (${values.join(', ')})`
}

/** Whether a node with this value under the key (`undefined`: without the key) fulfils it. */
export function fulfils(rule: LabelRule, value: string | undefined): boolean {
  switch (rule.operator) {
    case 'exists':
      return value !== undefined
    case 'absent':
      return value === undefined
    case 'in':
      return value !== undefined && rule.values.includes(value)
    case 'not-in':
      return value === undefined || !rule.values.includes(value)
    default:
      return rule.operator satisfies never
  }
}
