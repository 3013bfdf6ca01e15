/**
 * What do subscribers get? Asked once a message and session, which is dear in large rooms.
 * The answer depends on arguments, context and settings alone.
 */
export const onDeliverSession = {
  onDeliverSession(message, to) {
    const said = text(message.data);
    if (said === '') return { tag: 'drop' };
    return { tag: 'replace', val: { data: bytes(`${said} (for ${to.user})`) } };
  },
};
