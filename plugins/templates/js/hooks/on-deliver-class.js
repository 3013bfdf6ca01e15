/**
 * What do subscribers get? Asked once a message and class.
 * The answer depends on arguments, context and settings alone.
 */
export const onDeliverClass = {
  onDeliverClass(message, forClass) {
    const said = text(message.data);
    if (said === '') return { tag: 'drop' };
    return { tag: 'replace', val: { data: bytes(`${said} (for ${forClass})`) } };
  },
};
